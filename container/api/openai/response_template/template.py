"""A response_template that has been read: its fields, and the marks around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from container.api.openai.response_template.control_signs import ControlSigns, without_tokens
from container.api.openai.response_template.mark import Mark

CONTENT, CALLS = "content", "tool_calls"
# Hub checkpoints use all three names.
REASONING = ("reasoning_content", "thinking", "reasoning")


class UnreadableTemplate(ValueError):
    """The template is of another version, or has a key or pattern that this reader does not know."""


@dataclass(frozen=True, slots=True)
class Field:
    """A region of the answer, from `open` to `close`. Without `open` it is what no other field has.

    `content` and `content_args` say how its text is read, `transform` what is made of that, for each item of a list if
    `transform_each`. `join` stands between the texts of several regions.
    """

    name: str
    open: Mark | None
    close: Mark | None
    content: str = "text"
    content_args: Mapping[str, Any] = field(default_factory=dict)
    join: str | None = None
    transform: Any = None
    transform_each: bool = False

    @property
    def openings(self) -> tuple[str, ...]:
        """The literals of `open`, as a client sees them in a call that was cut."""
        literals = () if self.open is None else self.open.literals
        return tuple(text for text in map(without_tokens, literals) if text)

    @property
    def strips(self) -> bool:
        """Whether white space around the text belongs to the marks."""
        return bool(self.content_args.get("strip", True))


@dataclass(frozen=True, slots=True)
class ResponseTemplate:
    """`anchor` is what the assistant's turn begins with in a prompt; `signs` stand around control tokens in answers."""

    fields: tuple[Field, ...]
    anchor: Mark
    signs: ControlSigns

    @property
    def implicit(self) -> Field | None:
        """The field without an opening, which takes the text between the others."""
        return next((each for each in self.fields if each.open is None), None)

    @property
    def calls(self) -> Field | None:
        """The field of tool calls."""
        return next((each for each in self.fields if each.name == CALLS), None)

    @property
    def reasoning(self) -> Field | None:
        """The field of thoughts."""
        return next((each for each in self.fields if each.name in REASONING), None)
