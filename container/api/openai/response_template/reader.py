"""Reads an answer by a checkpoint's own template: regions become thoughts, content and calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from container.api.openai.parts import Content, Part, Reasoning, joined
from container.api.openai.response_template.calls import Calls
from container.api.openai.response_template.control_signs import BEGIN, END, without_signs, without_tokens
from container.api.openai.response_template.mark import SlowPattern
from container.api.openai.response_template.regions import Closed, Event, Opened, Regions, Text
from container.api.openai.response_template.spoken import Spoken
from container.api.openai.response_template.template import CALLS, CONTENT, REASONING, ResponseTemplate

logger = logging.getLogger(__name__)

# The end of a prompt that is searched for the beginning of the answer.
_MAX_PREFIX_CHARS = 16_384


class TemplateReader:
    """The text has its control tokens between signs (`ControlSigns`). The result does not depend on its pieces.

    Several regions of one kind are parted by the field's `join`, or a line break. Text that no field has is dropped, as
    in transformers. A region of calls that holds no call of these functions is content, with its marks.
    """

    def __init__(
        self,
        template: ResponseTemplate,
        schemas: Mapping[str, dict[str, Any]],
        prompt: str,
        *,
        mark: str | None = None,
        separates: bool = True,
        shows_tokens: bool = False,
        keeps_rest: bool = False,
    ) -> None:
        """`schemas` are of the functions that may be called. `prompt` ends where the answer begins; `mark` is in
        it where a message spells a control token.

        Without `separates`, thoughts and their marks are content. `shows_tokens` leaves control tokens in the text.
        `keeps_rest`: text that no field has is content.
        """
        self._regions = Regions(template)
        field = template.calls
        self._calls = Calls(field, schemas) if field is not None and schemas else None
        self._separates = separates
        self._keeps_rest = keeps_rest
        self._shown = without_signs if shows_tokens else without_tokens
        self._content = Spoken(_join_of(template, (CONTENT,)))
        self._reasoning = Spoken(_join_of(template, REASONING))
        self._strips = all(each.strips for each in template.fields if each.name == CONTENT)
        self._thought_strips = all(each.strips for each in template.fields if each.name in REASONING)
        # A control token whose end is yet to come.
        self._token = ""
        # The open region of calls: what it holds, what of that is not the prompt's, and its mark's groups.
        self._body: list[str] = []
        self._raw: list[str] = []
        self._captures: dict[str, str] = {}
        self._read_prompt(template, prompt, mark)

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends inside a thought."""
        field = self._regions.field
        return field is not None and field.name in REASONING

    def push(self, text: str) -> list[Part]:
        """The parts that `text` completes."""
        return self._read(self._regions.push(text))

    def finish(self, *, cut: bool) -> list[Part]:
        """The parts held back so far, at the end of the answer, which its limit may have `cut`."""
        return self._read(self._regions.finish(), cut=cut)

    def flush(self) -> list[Part]:
        """As `finish` of an answer that its limit has not cut."""
        return self.finish(cut=False)

    def _read_prompt(self, template: ResponseTemplate, prompt: str, mark: str | None) -> None:
        """Go where the prompt ends. Nothing of it is shown."""
        begun = template.signs.of_prompt(_beginning(template, prompt), mark)
        self._read(self._regions.push(begun, given=True))
        self._raw = []
        self._content.resume()
        self._reasoning.resume()

    def _read(self, events: list[Event], *, cut: bool = False) -> list[Part]:
        if self._regions.slow:
            _note_slow(self._regions.slow)
        return joined([part for event in events for part in self._parts(event, cut=cut)])

    def _parts(self, event: Event, *, cut: bool) -> list[Part]:
        if not isinstance(event, Text):
            self._token = ""
        if event.field is None:
            return self._in_content(event) if self._keeps_rest else []
        if event.field.name == CALLS and self._calls is not None:
            return self._in_calls(self._calls, event, cut=cut)
        if event.field.name in REASONING and self._separates:
            return self._in_thought(event)
        return self._in_content(event)

    def _in_content(self, event: Event) -> list[Part]:
        """Marks of other fields are content too."""
        is_content = event.field is not None and event.field.name == CONTENT
        if isinstance(event, Text):
            return self._say(event.shown)
        if not is_content:
            return self._say(event.mark)
        if isinstance(event, Opened) or event.mark:
            self._content.begin()
        return []

    def _in_thought(self, event: Event) -> list[Part]:
        if isinstance(event, Text):
            return [Reasoning(self._reasoning.push(self._clean(event.shown), strips=self._thought_strips))]
        self._content.begin()
        self._reasoning.begin()
        return []

    def _in_calls(self, calls: Calls, event: Event, *, cut: bool) -> list[Part]:
        match event:
            case Opened(mark=mark, captures=captures):
                self._body, self._raw, self._captures = [], [mark], captures
            case Text(text=text, shown=shown):
                self._body.append(text)
                self._raw.append(shown)
            case Closed(mark=mark, captures=captures):
                return self._called(calls, mark, self._captures | captures, cut=cut and not mark)
        return []

    def _called(self, calls: Calls, mark: str, captures: dict[str, str], *, cut: bool) -> list[Part]:
        """The calls of a region that ends here, else its text."""
        body = "".join(self._body)
        found = calls.read(body, captures, cut=cut)
        if found is None:
            return self._say("".join([*self._raw, mark]))
        self._content.begin()
        return [said for part in found for said in (self._say(part.text) if isinstance(part, Content) else [part])]

    def _say(self, text: str) -> list[Part]:
        return [Content(self._content.push(self._clean(text), strips=self._strips))]

    def _clean(self, text: str) -> str:
        """The text as the client gets it; an open control token waits for its end."""
        text, self._token = self._token + text, ""
        begun = text.rfind(BEGIN)
        if begun > text.rfind(END):
            text, self._token = text[:begun], text[begun:]
        return self._shown(text)


@lru_cache(maxsize=64)
def _note_slow(pattern: str) -> None:
    """Log once for each process and pattern."""
    logger.warning("a pattern of the response_template takes too long, answers are not split after it: %s", pattern)


def _beginning(template: ResponseTemplate, prompt: str) -> str:
    """What the end of a prompt has written of the answer: what follows the last anchor, all if there is none."""
    end = prompt[-_MAX_PREFIX_CHARS:]
    try:
        return end[template.anchor.last_end(end) or 0 :]
    except SlowPattern:
        return ""


def _join_of(template: ResponseTemplate, names: tuple[str, ...]) -> str | None:
    return next((each.join for each in template.fields if each.name in names), None)
