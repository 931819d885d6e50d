"""Calls between tags: `<tool_call>{...}</tool_call>` (Hermes, Qwen), `<|tool_call|>[{...}]<|/tool_call|>` (Phi-4)."""

from __future__ import annotations

from container.api.openai.parts import Content, Part, joined
from container.api.openai.tool_parsers.call_list import CallList
from container.api.openai.tool_parsers.marker import Gap, Marker


class TaggedParser:
    """Text outside the tags is content, except white space next to a call."""

    def __init__(self, opening: str, closing: str, names: frozenset[str]) -> None:
        self._opening = opening
        self._closing = closing
        self._names = names
        self._marker = Marker(opening)
        self._gap = Gap()
        self._calls: CallList | None = None
        self._after: str | None = None

    def push(self, text: str) -> list[Part]:
        """The parts that `text` completes."""
        parts: list[Part] = []
        rest: str | None = text
        while rest:
            if self._calls is not None:
                rest = self._inside(rest, self._calls, parts)
            elif self._after is not None:
                rest = self._behind(rest)
            else:
                rest = self._outside(rest, parts)
        return joined(parts)

    def _outside(self, text: str, parts: list[Part]) -> str | None:
        before, after = self._marker.push(text)
        parts.append(Content(self._gap.show(before)))
        if after is not None:
            self._calls = CallList(self._names)
        return after

    def _inside(self, text: str, calls: CallList, parts: list[Part]) -> str | None:
        found, rest = calls.push(text)
        self._add(found, calls, parts)
        if rest is not None:
            if not calls.started and not any(isinstance(part, Content) for part in found):
                parts.append(Content(self._gap.show(self._opening)))
            self._calls, self._after = None, "" if calls.started else None
        return rest

    def _add(self, found: list[Part], calls: CallList, parts: list[Part]) -> None:
        for part in found:
            if isinstance(part, Content):
                opening = "" if calls.started else self._opening
                parts.append(Content(self._gap.show(opening + part.text)))
            else:
                self._gap.call()
                parts.append(part)

    def _behind(self, text: str) -> str | None:
        """Remove the closing tag, if there is one."""
        text = (self._after or "") + text
        tag = text.lstrip()
        if len(tag) < len(self._closing) and self._closing.startswith(tag):
            self._after = tag
            return None
        self._after = None
        return tag.removeprefix(self._closing) if tag.startswith(self._closing) else text

    def flush(self) -> list[Part]:
        """The parts held back so far; call it at the end of the answer."""
        parts: list[Part] = []
        if self._calls is not None:
            if not self._calls.started:
                parts.append(Content(self._gap.show(self._opening)))
            parts += [Content(self._gap.show(p.text)) for p in self._calls.flush() if isinstance(p, Content)]
        parts.append(Content(self._gap.show((self._after or "") + self._marker.flush())))
        parts.append(Content(self._gap.flush()))
        return joined(parts)
