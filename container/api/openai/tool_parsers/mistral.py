"""Mistral's calls: `[TOOL_CALLS][{...}, {...}]`, and since 2025 `[TOOL_CALLS]name[ARGS]{...}` for each call."""

from __future__ import annotations

from container.api.openai.parts import CallArguments, CallStart, Content, Part, joined
from container.api.openai.tool_parsers.call_list import CallList
from container.api.openai.tool_parsers.json_value import ValueScanner
from container.api.openai.tool_parsers.marker import Gap, Marker

MARKER = "[TOOL_CALLS]"
ARGUMENTS = "[ARGS]"
_CALL_ID = "[CALL_ID]"
# A name, its id and the markers between them; longer text is not a call.
_MAX_HEAD_CHARS = 256


class MistralParser:
    """Text before the first marker is content; calls in one of the two forms follow it."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._marker = Marker(MARKER)
        self._gap = Gap()
        self._inside: CallList | _NamedCall | None = None
        self._head: str | None = None

    def push(self, text: str) -> list[Part]:
        """The parts that `text` completes."""
        parts: list[Part] = []
        rest: str | None = text
        while rest:
            if self._inside is not None:
                rest = self._read_calls(rest, self._inside, parts)
            elif self._head is not None:
                rest = self._read_head(rest, parts)
            else:
                before, rest = self._marker.push(rest)
                parts.append(Content(self._gap.show(before)))
                self._head = None if rest is None else ""
        return joined(parts)

    def _read_calls(self, text: str, calls: CallList | _NamedCall, parts: list[Part]) -> str | None:
        found, rest = calls.push(text)
        if rest is not None:
            self._inside = None
            if not calls.started:
                found = [Content(MARKER), *found, Content(rest)]
                rest = ""
        self._add(found, parts)
        return rest

    def _read_head(self, text: str, parts: list[Part]) -> str | None:
        """Read up to the first brace: nothing, `[`, or the function's name."""
        text = (self._head or "") + text
        self._head = text
        begun = text.lstrip()
        brace = begun.find("{")
        if begun[:1] in {"{", "["}:
            self._head, self._inside = None, CallList(self._names)
            return begun
        if brace < 0 and len(begun) <= _MAX_HEAD_CHARS:
            return None
        name = begun[: max(brace, 0)].partition(ARGUMENTS)[0].partition(_CALL_ID)[0].strip()
        self._head = None
        if name not in self._names:
            parts.append(Content(self._gap.show(MARKER + text)))
            return None
        self._add([CallStart(name)], parts)
        self._inside = _NamedCall()
        return begun[brace:]

    def _add(self, found: list[Part], parts: list[Part]) -> None:
        for part in found:
            if isinstance(part, Content):
                parts.append(Content(self._gap.show(part.text)))
            else:
                self._gap.call()
                parts.append(part)

    def flush(self) -> list[Part]:
        """The parts held back so far; call it at the end of the answer."""
        parts: list[Part] = []
        if isinstance(self._inside, CallList):
            marker = "" if self._inside.started else MARKER
            self._add([Content(marker), *self._inside.flush()], parts)
        if self._head is not None:
            parts.append(Content(self._gap.show(MARKER + self._head)))
        parts.append(Content(self._gap.show(self._marker.flush())))
        parts.append(Content(self._gap.flush()))
        return joined(parts)


class _NamedCall:
    """The arguments of a call whose name has been read."""

    started = True

    def __init__(self) -> None:
        self._scanner = ValueScanner()

    def push(self, text: str) -> tuple[list[Part], str | None]:
        """As `CallList.push`."""
        end = self._scanner.scan(text, 0)
        return [CallArguments(text[:end])], text[end:] if self._scanner.done else None
