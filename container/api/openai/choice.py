"""One choice of a chat answer, as it grows: deltas in, parts out, and all that was said so far."""

from __future__ import annotations

import secrets
from typing import Any

from container.api.openai.parts import CallArguments, CallStart, Content, Part, Reasoning
from container.api.openai.reasoning import ReasoningSplitter
from container.api.openai.tool_parsers import ToolParser
from container.generation import Delta, Token
from handler.protocol import FinishReason

_FINISH = {
    FinishReason.EOS: "stop",
    FinishReason.STOP_TOKEN: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ABORTED: "stop",
}


class Choice:
    """Reads one generation's text: reasoning first, then tool calls in what is left."""

    def __init__(self, reasoning: ReasoningSplitter | None, tools: ToolParser | None, max_calls: int | None) -> None:
        """`max_calls` bounds the tool calls (1 if parallel calls are not wanted)."""
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.tokens: list[Token] = []
        self.finish_reason: str | None = None
        self._splitter = reasoning
        self._parser = tools
        self._max_calls = max_calls

    def add(self, delta: Delta) -> list[Part]:
        """The parts of the answer that became certain with `delta`."""
        self.tokens += delta.tokens
        parts = self._split(delta.text)
        if delta.finish_reason is not None:
            parts += self._finish()
        parts = self._keep(parts)
        if delta.finish_reason is not None:
            self.finish_reason = _FINISH[delta.finish_reason]
            if self.calls and self.finish_reason == "stop":
                self.finish_reason = "tool_calls"
        return parts

    def _split(self, text: str) -> list[Part]:
        if self._splitter is None:
            return self._parse(text)
        reasoning, content = self._splitter.push(text)
        parts: list[Part] = [Reasoning(reasoning)] if reasoning else []
        return parts + self._parse(content)

    def _parse(self, text: str) -> list[Part]:
        if self._parser is not None:
            return self._parser.push(text)
        return [Content(text)] if text else []

    def _finish(self) -> list[Part]:
        parts: list[Part] = []
        if self._splitter is not None:
            reasoning, content = self._splitter.flush()
            parts += [Reasoning(reasoning)] if reasoning else []
            parts += self._parse(content)
        return parts + (self._parser.flush() if self._parser is not None else [])

    def _keep(self, parts: list[Part]) -> list[Part]:
        """Remember the parts; white space around calls and calls beyond the limit are left out."""
        kept: list[Part] = []
        for part in parts:
            if isinstance(part, CallStart | CallArguments):
                if self._max_calls is not None and part.index >= self._max_calls:
                    continue
                self._keep_call(part)
            elif isinstance(part, Content):
                if self._parser is not None and not part.text.strip() and (self.calls or not self.content):
                    continue
                self.content.append(part.text)
            else:
                self.reasoning.append(part.text)
            kept.append(part)
        return kept

    def _keep_call(self, part: CallStart | CallArguments) -> None:
        if isinstance(part, CallStart):
            function = {"name": part.name, "arguments": ""}
            self.calls.append({"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function})
        else:
            self.calls[part.index]["function"]["arguments"] += part.fragment

    def message(self) -> dict[str, Any]:
        """The whole message."""
        text = "".join(self.content)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self.calls:
            message["content"] = text.strip() or None
            message["tool_calls"] = self.calls
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning).strip("\n")
        return message

    def delta_of(self, part: Part) -> dict[str, Any]:
        """The `delta` of a chunk that carries one part."""
        if isinstance(part, Content):
            return {"content": part.text}
        if isinstance(part, Reasoning):
            return {"reasoning_content": part.text}
        if isinstance(part, CallStart):
            call = self.calls[part.index]
            function = {"name": part.name, "arguments": ""}
            return {"tool_calls": [{"index": part.index, "id": call["id"], "type": "function", "function": function}]}
        return {"tool_calls": [{"index": part.index, "function": {"arguments": part.fragment}}]}
