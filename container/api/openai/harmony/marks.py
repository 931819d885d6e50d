"""The marks of harmony, and what the header of a message says (openai/harmony on GitHub)."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from container.api.openai.mark_text import SIGN, MarkText
from container.text.tokenizer import Tokenizer

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, RETURN, CALL = "<|end|>", "<|return|>", "<|call|>"
ALL = (START, CHANNEL, CONSTRAIN, MESSAGE, END, RETURN, CALL)
ENDS = (END, RETURN, CALL)
# Either ends the answer. Checkpoints do not always say so.
STOPS = (RETURN, CALL)

_CHANNEL = re.compile(rf"{re.escape(CHANNEL)}\s*(\w+)")
_RECIPIENT = re.compile(r"(?:^|\s)to=([^\s<]+)")
_FUNCTIONS = "functions."


class HarmonyMarks:
    """The marks as readers find them; `shown` as `Prompt.marks` takes it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        text = MarkText(tokenizer)
        self._of = {mark: text.of(mark) for mark in ALL}
        self.shown = text.shown
        self.stop_token_ids = tuple(
            token_id for mark in STOPS if (token_id := tokenizer.marker_token_id(mark)) is not None
        )

    @classmethod
    def of(cls, template: str, tokenizer: Tokenizer) -> HarmonyMarks | None:
        """The marks of a model whose template writes harmony, else None."""
        return cls(tokenizer) if CHANNEL in template and MESSAGE in template else None

    def items(self) -> Iterator[tuple[str, str]]:
        """Each mark, and its text."""
        return iter(self._of.items())


class Place(enum.Enum):
    """Where a text ends: in a message's header, in its body, or between two messages."""

    HEADER = enum.auto()
    BODY = enum.auto()
    BETWEEN = enum.auto()


@dataclass(frozen=True, slots=True)
class Header:
    """Who a message is for. `channel` and `recipient` are "" if the header does not say."""

    channel: str
    recipient: str

    @classmethod
    def read(cls, text: str) -> Header:
        """The recipient may stand in the part of the role or of the channel."""
        text = text.replace(SIGN, "")
        channel, recipient = _CHANNEL.search(text), _RECIPIENT.search(text.replace(CHANNEL, f" {CHANNEL}"))
        return cls(channel[1] if channel else "", recipient[1] if recipient else "")

    @property
    def function(self) -> str:
        """The function that the message calls, if its recipient is one."""
        return self.recipient.removeprefix(_FUNCTIONS)

    @property
    def is_thought(self) -> bool:
        """Whether the message is for the model itself."""
        return self.channel == "analysis"


def end_of(prompt: str) -> tuple[Place, str]:
    """Where a prompt ends, and the header of the message there."""
    _, started, message = prompt.rpartition(START)
    header, has_body, body = message.partition(MESSAGE)
    if not started or any(mark in message for mark in ENDS):
        return Place.BETWEEN, ""
    return (Place.BODY, header) if has_body or body else (Place.HEADER, header)
