"""Cuts an answer into the regions of a template while it streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from container.api.openai.response_template.body import JSON
from container.api.openai.response_template.control_signs import BEGIN
from container.api.openai.response_template.json_strings import JsonStrings
from container.api.openai.response_template.mark import MAX_MARK_CHARS, Mark, SearchTime, SlowPattern
from container.api.openai.response_template.template import Field, ResponseTemplate


@dataclass(frozen=True, slots=True)
class Opened:
    """A region of `field` begins with the text `mark`; `captures` are the named groups of its pattern."""

    field: Field
    mark: str
    captures: dict[str, str]


@dataclass(frozen=True, slots=True)
class Text:
    """More of a region of `field`, None for text that no field has. `shown` is the part that is not of the prompt."""

    field: Field | None
    text: str
    shown: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The region of `field` ends with the text `mark`, which is "" if none has ended it."""

    field: Field
    mark: str
    captures: dict[str, str]


Event = Opened | Text | Closed
# Text before the present place that a pattern may look back at.
_NUM_BEHIND = 64


class _Match(NamedTuple):
    start: int
    end: int
    is_cut: bool
    captures: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Found:
    field: Field
    opens: bool
    start: int
    end: int
    captures: dict[str, str]

    @property
    def order(self) -> tuple[int, int, bool, str]:
        """The first mark counts, of several there the longest."""
        return self.start, self.start - self.end, not self.opens, self.field.name


class Regions:
    """The events do not depend on how the text was cut into pushes: each character is looked at by itself.

    Only text that no mark can begin in is passed over at once. A region without marks, if the template has one, is
    where no other is open. After patterns that took too long all text is of the region it was found in; `slow` is the
    last of them.
    """

    def __init__(self, template: ResponseTemplate) -> None:
        self._template = template
        self._field = template.implicit
        self._strings: JsonStrings | None = None
        self._text = ""
        self._behind = ""
        # Characters that have been looked at, and those that are of the prompt.
        self._seen = 0
        self._given = 0
        # Where a mark without text was found; a second one there would go round in a circle.
        self._turned = -1
        self._events: list[Event] = []
        self._time = SearchTime()
        self.slow = ""

    @property
    def field(self) -> Field | None:
        """The field whose region is open."""
        return self._field

    def push(self, text: str, *, given: bool = False) -> list[Event]:
        """The events of more text; `given`: it is the prompt's."""
        self._text += text
        self._time.extend(len(text))
        self._given += len(text) if given else 0
        try:
            while self._seen < len(self._text) and not self.slow:
                if self._seen or not self._pass_over():
                    self._seen += 1
                    self._settle(final=False)
        except SlowPattern as exc:
            self.slow = str(exc)
        if self.slow:
            self._take(len(self._text))
        return self._taken()

    def finish(self) -> list[Event]:
        """The events of the text held back, at the end of the answer."""
        try:
            if not self.slow:
                self._settle(final=True)
        except SlowPattern as exc:
            self.slow = str(exc)
        self._take(len(self._text))
        if self._field is not None:
            self._events.append(Closed(self._field, "", {}))
        return self._taken()

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _pass_over(self) -> bool:
        """Take the text up to the first place where a mark may begin; whether there was any."""
        watched = list(self._watched())
        if not all(mark.is_local for _, mark, _ in watched):
            return False
        end = len(self._text)
        found = [self._time.search(mark, self._text, 0, end, partial=True) for _, mark, _ in watched]
        size = min([match.start() for match in found if match is not None], default=end)
        if self._strings is not None:
            self._strings.read(self._text, size)
            size = min(size, self._strings.num_read)
        self._take(size)
        return size > 0

    def _watched(self) -> Iterator[tuple[Field, Mark, bool]]:
        """The marks that count now, and whether each opens its field."""
        field = self._field
        if field is not None and field.open is not None:
            if field.close is not None:
                yield field, field.close, False
            return
        for each in self._template.fields:
            if each.open is not None:
                yield each, each.open, True
        if field is not None and field.close is not None:
            yield field, field.close, False

    def _settle(self, *, final: bool) -> None:
        """Read all marks that are certain, and the text that is none."""
        while True:
            if self._strings is not None:
                self._strings.read(self._text, self._seen)
            found, waits_from = self._look(final=final)
            if found is None:
                read = self._seen if self._strings is None or final else self._strings.num_read
                self._take(min(waits_from, read))
                return
            self._take(found.start)
            self._turn(found)

    def _look(self, *, final: bool) -> tuple[_Found | None, int]:
        """The first mark that is certain, and where text begins that may yet be one."""
        waits_from = self._seen
        candidates: list[_Found] = []
        for field, mark, opens in self._watched():
            match = self._first(mark, final=final)
            if match is None:
                continue
            if not final and (match.is_cut or self._may_grow(mark, match)):
                waits_from = min(waits_from, match.start)
            else:
                candidates.append(_Found(field, opens, match.start, match.end, match.captures))
        best = min(candidates, key=lambda each: each.order, default=None)
        waits = best is None or (best.start >= waits_from and not final)
        return (None, waits_from) if waits else (best, waits_from)

    def _first(self, mark: Mark, *, final: bool) -> _Match | None:
        """The first match, whole or cut, that begins outside of a string, or that a control token is part of."""
        start = 0
        while (match := self._match(mark, start, self._seen, final=final)) is not None:
            if match.is_cut and match.start == self._seen:
                return None
            in_string = self._strings is not None and self._strings.inside(match.start)
            in_string = in_string and BEGIN not in self._text[max(0, match.start) : match.end]
            repeats = match.end == match.start == self._turned
            if not in_string and not repeats and match.end - match.start <= MAX_MARK_CHARS:
                return match
            start = match.start + 1
        return None

    def _match(self, mark: Mark, start: int, end: int, *, final: bool) -> _Match | None:
        """The first match in a part of the text."""
        behind = "" if mark.is_local else self._behind
        size = len(behind)
        found = self._time.search(mark, behind + self._text, size + start, size + end, partial=not final)
        if found is None:
            return None
        captures = {name: text for name, text in found.groupdict().items() if text is not None}
        return _Match(found.start() - size, found.end() - size, found.partial, captures)

    def _may_grow(self, mark: Mark, match: _Match) -> bool:
        """Whether more text could change a match: one that reaches the end, or that looks around."""
        if match.end < self._seen:
            return not mark.is_local and match.end + 1 >= self._seen
        return not mark.is_certain

    def _turn(self, found: _Found) -> None:
        """Read a mark, which stands at the beginning of the text."""
        size = found.end - found.start
        mark = self._cut(size)
        self._turned = 0 if size == 0 else -1
        if self._field is not None and (not found.opens or self._field.open is None):
            self._events.append(Closed(self._field, "" if found.opens else mark, {} if found.opens else found.captures))
        self._field = self._template.implicit
        self._strings = None
        if found.opens:
            self._field = found.field
            self._events.append(Opened(found.field, mark, found.captures))
            if found.field.content == JSON:
                self._strings = JsonStrings(found.field.content_args.get("string_delims", ()))

    def _take(self, size: int) -> None:
        """The first characters are text of the open region."""
        given = min(self._given, size)
        text = self._cut(size)
        if text:
            self._turned = -1
            self._events.append(Text(self._field, text, text[given:]))

    def _cut(self, size: int) -> str:
        text, self._text = self._text[:size], self._text[size:]
        self._behind = (self._behind + text)[-_NUM_BEHIND:]
        self._seen = max(0, self._seen - size)
        self._given = max(0, self._given - size)
        if self._strings is not None:
            self._strings.cut(size)
        return text
