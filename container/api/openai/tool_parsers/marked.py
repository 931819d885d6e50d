"""Calls between markers: Hermes and Qwen (`<tool_call>{...}</tool_call>`), Mistral (`[TOOL_CALLS][{...}, {...}]`)."""

from __future__ import annotations

from container.api.openai.parts import Content, Part
from container.api.openai.tool_parsers.json_call import JsonCall
from container.text.stop_strings import StopStrings


class MarkedParser:
    """Text before the opening marker is content. After it come JSON objects; what stands between them is dropped.

    Mistral's newer form `[TOOL_CALLS]name{...}` or `name[ARGS]{...}` is read too. `closing` ends a run of calls, None
    for markers that only open. Without an `opening` the text is calls from its first character: a grammar forces them.
    """

    def __init__(self, opening: str | None, closing: str | None = None) -> None:
        self._opening = opening
        self._closing = closing
        self._inside = opening is None
        self._num_calls = 0
        self._call: JsonCall | None = None
        self._between = ""
        self._outside = StopStrings([opening], keep=False) if opening else None

    def push(self, text: str) -> list[Part]:
        """Parts that became certain."""
        parts: list[Part] = []
        while text:
            text = self._push_inside(text, parts) if self._inside else self._push_outside(text, parts)
        return parts

    def _push_outside(self, text: str, parts: list[Part]) -> str:
        if self._outside is None or self._opening is None:
            return ""
        shown = self._outside.push(text)
        if shown:
            parts.append(Content(shown))
        if self._outside.matched is None:
            return ""
        rest = self._outside.remainder
        self._outside = StopStrings([self._opening], keep=False)
        self._inside, self._between = True, ""
        return rest

    def _push_inside(self, text: str, parts: list[Part]) -> str:
        if self._call is None:
            return self._seek_object(text)
        parts += self._call.push(text)
        if not self._call.done:
            return ""
        rest = self._call.rest
        self._num_calls += self._call.name is not None
        self._call, self._between = None, ""
        return rest

    def _seek_object(self, text: str) -> str:
        """Skip to the next brace, or out of the calls at the closing marker."""
        self._between += text
        brace = self._between.find("{")
        end = self._between.find(self._closing) if self._closing else -1
        if end >= 0 and (brace < 0 or end < brace):
            rest = self._between[end + len(self._closing or "") :]
            self._inside, self._between = False, ""
            return rest
        if brace < 0:
            return ""
        name = self._between[:brace].replace("[ARGS]", "").strip(" \n,[]")
        self._call = _ArgumentsOnly(self._num_calls, name) if name else JsonCall(self._num_calls)
        return self._between[brace:]

    def flush(self) -> list[Part]:
        """What was held back."""
        if self._call is not None:
            return self._call.flush()
        if self._inside or self._outside is None:
            return []
        held = self._outside.flush()
        return [Content(held)] if held else []


class _ArgumentsOnly(JsonCall):
    """The object after a bare function name is the arguments themselves."""

    def __init__(self, index: int, name: str) -> None:
        super().__init__(index)
        self.name = name

    def _fragment(self) -> str:
        whole = self._text[: self._place]
        fragment = whole[self._sent :]
        self._sent = len(whole)
        return fragment
