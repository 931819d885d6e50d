"""One choice of a chat answer as it grows: deltas in, OpenAI's deltas out, and the message so far."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from msgspec import UNSET

from container.api.openai.answer_types import (
    AnswerMessage,
    CalledFunctionAnswer,
    CallFragment,
    ChatDelta,
    ChatFinish,
    FunctionFragment,
    ToolCallAnswer,
)
from container.api.openai.argument_text import ArgumentText
from container.api.openai.harmony import HarmonyReader
from container.api.openai.parts import CallArguments, CallStart, Content, Part, Reasoning, joined
from container.api.openai.reasoning import ReasoningSplitter
from container.api.openai.reasoning_options import ReasoningView
from container.api.openai.response_template import TemplateReader
from container.api.openai.tool_parsers import CallIds, ToolParser
from container.generation.generation import Delta, Token
from handler.seam.protocol import FinishReason

_FINISH: dict[FinishReason, ChatFinish] = {
    FinishReason.EOS: "stop",
    FinishReason.STOP_TOKEN: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ABORTED: "stop",
}
# The ids that Mistral's models write. Their history equals what they wrote if clients get the same ids.
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)
    text: ArgumentText = field(default_factory=ArgumentText)

    @property
    def whole(self) -> ToolCallAnswer:
        return ToolCallAnswer(id=self.id, function=CalledFunctionAnswer(self.name, "".join(self.arguments)))


class Choice:
    """Reads one generation's text: first reasoning, then tool calls in the rest."""

    def __init__(
        self,
        reasoning: ReasoningSplitter | None,
        tools: ToolParser | None,
        *,
        view: ReasoningView | None = None,
        max_calls: int | None = None,
        call_ids: CallIds = CallIds.ANY,
        past_ids: tuple[str, ...] = (),
        forced: bool = False,
        marks: tuple[str, ...] = (),
    ) -> None:
        """`view` says how thoughts are shown. `max_calls` limits the calls in the answer. `call_ids` and
        `past_ids`, those of earlier calls, decide the ids of calls.

        `forced`: a grammar allows calls only, so there is no text. `marks` stand around calls in the family's form.
        """
        self.tokens: list[Token] = []
        self.finish_reason: ChatFinish | None = None
        self.num_reasoning_tokens = 0
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_Call] = []
        self._splitter = reasoning
        self._view = view or ReasoningView()
        self._parser = tools
        self._max_calls = max_calls
        self._call_ids = call_ids
        self._num_past_calls = len(past_ids)
        self._ids = set(past_ids)
        self._forced = forced
        self._marks = marks
        self._num_calls_seen = 0
        self._reads_nothing = reasoning is None and tools is None

    def add(self, delta: Delta) -> list[ChatDelta]:
        """The parts that `delta` completes, each as the `delta` of a chunk."""
        self.tokens += delta.tokens
        if self._reads_nothing and delta.finish_reason is None:
            return [ChatDelta(content=self._text(delta.text))] if delta.text else []
        parts = [part for single in delta.singles() for part in self._split(single)]
        chunks = [self._keep(part) for part in joined(self._view.shown(parts, over=False))]
        if delta.finish_reason is not None:
            cut = delta.finish_reason is FinishReason.LENGTH
            chunks += [self._keep(part) for part in joined(self._view.shown(self._finish(cut=cut), over=True))]
        if delta.finish_reason is not None:
            self.finish_reason = _FINISH[delta.finish_reason]
            if self._calls and self.finish_reason == "stop":
                self.finish_reason = "tool_calls"
        return [each for each in chunks if each is not None]

    def _split(self, delta: Delta) -> list[Part]:
        """The parts that one token completes; a token of a thought counts."""
        if self._splitter is None:
            parts = self._parse(delta.text)
            thinks = isinstance(self._parser, HarmonyReader | TemplateReader) and self._parser.thinking
            if thinks or any(isinstance(part, Reasoning) for part in parts):
                self.num_reasoning_tokens += len(delta.tokens)
            return parts
        reasoning, content = self._splitter.push(delta.text)
        if reasoning or self._splitter.thinking:
            self.num_reasoning_tokens += len(delta.tokens)
        return [Reasoning(reasoning), *self._parse(content)]

    def _parse(self, text: str) -> list[Part]:
        return [Content(text)] if self._parser is None else self._parser.push(text)

    def _finish(self, *, cut: bool) -> list[Part]:
        parts: list[Part] = []
        if self._splitter is not None:
            reasoning, content = self._splitter.flush()
            parts += [Reasoning(reasoning), *self._parse(content)]
        held = [] if self._parser is None else self._held(self._parser, cut=cut)
        return parts + [part for part in held if not self._begins_call(part, cut=cut)]

    def _held(self, parser: ToolParser, *, cut: bool) -> list[Part]:
        return parser.finish(cut=cut) if isinstance(parser, TemplateReader) else parser.flush()

    def _begins_call(self, part: Part, *, cut: bool) -> bool:
        """Whether text that the parser held back to the end is the markup of a call without a name."""
        if not isinstance(part, Content):
            return False
        text = part.text.strip()
        begun = self._num_calls_seen > 0 and any(mark.startswith(text) for mark in self._marks)
        return self._forced or (cut and (begun or text.startswith(self._marks)))

    def _keep(self, part: Part) -> ChatDelta | None:
        """Add a part to the message and return it as a chunk's delta; None for calls beyond the limit."""
        match part:
            case Content(text):
                return ChatDelta(content=self._text(text))
            case Reasoning(text):
                self._reasoning.append(text)
                return ChatDelta(reasoning_content=text)
            case CallStart(name, call_id):
                self._num_calls_seen += 1
                return self._begin_call(name, call_id) if self._in_limit else None
            case CallArguments(fragment):
                return self._extend_call(fragment) if self._in_limit else None

    def _text(self, text: str) -> str:
        self._content.append(text)
        return text

    @property
    def _in_limit(self) -> bool:
        return self._max_calls is None or self._num_calls_seen <= self._max_calls

    def _begin_call(self, name: str, call_id: str) -> ChatDelta:
        kept = _SHORT_ID.fullmatch(call_id) and call_id not in self._ids
        call = _Call(call_id if kept else self._new_id(name), name)
        self._calls.append(call)
        self._ids.add(call.id)
        function = FunctionFragment(name=name, arguments="")
        index = len(self._calls) - 1
        return ChatDelta(tool_calls=[CallFragment(index=index, id=call.id, type="function", function=function)])

    def _new_id(self, name: str) -> str:
        match self._call_ids:
            case CallIds.SHORT:
                return secrets.token_hex(5)[:9]
            case CallIds.NUMBERED:
                return f"functions.{name}:{self._num_past_calls + len(self._calls)}"
            case CallIds.ANY:
                return f"call_{secrets.token_hex(12)}"

    def _extend_call(self, fragment: str) -> ChatDelta:
        fragment = self._calls[-1].text.push(fragment)
        self._calls[-1].arguments.append(fragment)
        function = FunctionFragment(arguments=fragment)
        return ChatDelta(tool_calls=[CallFragment(index=len(self._calls) - 1, function=function)])

    def message(self) -> AnswerMessage:
        """The whole message."""
        text = "".join(self._content)
        return AnswerMessage(
            content=(text or None) if self._calls or self._forced else text,
            tool_calls=[call.whole for call in self._calls] or UNSET,
            reasoning_content="".join(self._reasoning) or UNSET,
        )
