"""The content of a message as it grows: deltas of a chat in, blocks and their events out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from container.api.anthropic import answer_types as types
from container.api.anthropic.answer_types import TextAnswer, ThinkingAnswer, ToolUseAnswer
from container.api.openai.answer_types import CallFragment, ChatDelta
from container.api.openai.carried_thought import carried

Block = TextAnswer | ThinkingAnswer | ToolUseAnswer


class Output:
    """Blocks one after the other. A whole answer is made of the same events, which then go nowhere."""

    def __init__(self, *, omits_thoughts: bool) -> None:
        self.blocks: list[Block] = []
        self._omits = omits_thoughts
        self._open: Block | None = None
        self._pieces: list[str] = []
        self._call = -1

    def add(self, deltas: Sequence[ChatDelta]) -> Iterator[msgspec.Struct]:
        """The events of some deltas."""
        for delta in deltas:
            if isinstance(delta.reasoning_content, str):
                yield from self._think(delta.reasoning_content)
            elif isinstance(delta.content, str):
                yield from self._say(delta.content)
            for fragment in delta.tool_calls or ():
                yield from self._call_on(fragment)

    def finish(self) -> Iterator[msgspec.Struct]:
        """The last events of the content. An answer that says nothing is an empty text."""
        if not self.blocks and self._open is None:
            yield from self._begin(TextAnswer(text=""))
        yield from self._end()

    def _think(self, text: str) -> Iterator[msgspec.Struct]:
        if not isinstance(self._open, ThinkingAnswer):
            yield from self._begin(ThinkingAnswer(thinking="", signature=""))
        self._pieces.append(text)
        if not self._omits:
            yield self._delta(types.ThinkingPiece(text))

    def _say(self, text: str) -> Iterator[msgspec.Struct]:
        if not isinstance(self._open, TextAnswer):
            yield from self._begin(TextAnswer(text=""))
        self._pieces.append(text)
        yield self._delta(types.TextPiece(text))

    def _call_on(self, fragment: CallFragment) -> Iterator[msgspec.Struct]:
        if fragment.index != self._call:
            self._call = fragment.index
            name = fragment.function.name or ""
            yield from self._begin(ToolUseAnswer(id=fragment.id or "", name=name, input={}))
        if fragment.function.arguments:
            self._pieces.append(fragment.function.arguments)
            yield self._delta(types.InputPiece(fragment.function.arguments))

    def _begin(self, block: Block) -> Iterator[msgspec.Struct]:
        yield from self._end()
        self._open = block
        yield types.BlockStart(index=len(self.blocks), content_block=block)
        if not self.blocks:
            yield types.Ping()

    def _end(self) -> Iterator[msgspec.Struct]:
        if self._open is None:
            return
        block = self._whole(self._open, "".join(self._pieces))
        if isinstance(block, ThinkingAnswer):
            yield self._delta(types.SignaturePiece(block.signature))
        yield types.BlockStop(index=len(self.blocks))
        self.blocks.append(block)
        self._open, self._pieces = None, []

    def _delta(self, piece: types.Piece) -> types.BlockDelta:
        return types.BlockDelta(index=len(self.blocks), delta=piece)

    def _whole(self, begun: Block, text: str) -> Block:
        match begun:
            case TextAnswer():
                return TextAnswer(text=text)
            case ThinkingAnswer() if self._omits:
                return ThinkingAnswer(thinking="", signature=carried(text))
            case ThinkingAnswer():
                # Clients drop a thought without a signature; nobody checks it here.
                return ThinkingAnswer(thinking=text, signature=hashlib.sha256(text.encode()).hexdigest()[:32])
            case ToolUseAnswer():
                return ToolUseAnswer(id=begun.id, name=begun.name, input=_object(text))


def _object(text: str) -> dict[str, object]:
    """The input of a call; Anthropic's documents say how to name what is no object, such as a call that was cut."""
    if not text:
        return {}
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"INVALID_JSON": text}
