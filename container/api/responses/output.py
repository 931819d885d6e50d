"""The output of a response as it grows: deltas of a chat in, items and their events out."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from container.api.openai.answer_types import CallFragment, ChatDelta, ScoredToken
from container.api.openai.carried_thought import carried
from container.api.responses import answer_types as types
from container.api.responses.answer_types import OutputCall, OutputItem, OutputMessage, OutputReasoning, Status
from container.api.responses.tools import Offer

_ItemKind = Literal["response.output_item.added", "response.output_item.done"]


@dataclass(slots=True)
class _Open:
    """The item that grows. `item` is as it began."""

    item: OutputItem
    pieces: list[str] = field(default_factory=list)
    logprobs: list[ScoredToken] = field(default_factory=list)


class Output:
    """Items one after the other: an item is complete when another begins, or at the end.

    A whole answer is made of the same events, which then go nowhere.
    """

    def __init__(self, offered: Offer, *, encrypts: bool) -> None:
        """`encrypts` adds `encrypted_content` to thoughts."""
        self.items: list[OutputItem] = []
        self._offered = offered
        self._encrypts = encrypts
        self._open: _Open | None = None
        self._call = -1
        self._number = -1

    def next_number(self) -> int:
        """The `sequence_number` of the next event."""
        self._number += 1
        return self._number

    @property
    def so_far(self) -> list[OutputItem]:
        """All items, the one that grows too."""
        return self.items if self._open is None else [*self.items, self._whole("incomplete")]

    def add(self, deltas: Sequence[ChatDelta], logprobs: list[ScoredToken]) -> Iterator[msgspec.Struct]:
        """The events of some deltas; `logprobs` belong to the first text among them."""
        for delta in deltas:
            if isinstance(delta.reasoning_content, str):
                yield from self._think(delta.reasoning_content)
            elif isinstance(delta.content, str):
                yield from self._say(delta.content, logprobs)
                logprobs = []
            for fragment in delta.tool_calls or ():
                yield from self._call_on(fragment)

    def finish(self, *, cut: bool) -> Iterator[msgspec.Struct]:
        """The last events. An answer that says nothing is an empty message. `cut`: the limit ended it."""
        if not self.items and self._open is None:
            yield from self._begin(_message())
        yield from self._end("incomplete" if cut else "completed")

    def _think(self, text: str) -> Iterator[msgspec.Struct]:
        if not isinstance(self._current, OutputReasoning):
            yield from self._begin(OutputReasoning(id=f"rs_{secrets.token_hex(12)}", status="in_progress", content=[]))
        self._opened.pieces.append(text)
        yield types.ReasoningDelta(**self._place, delta=text)

    def _say(self, text: str, logprobs: list[ScoredToken]) -> Iterator[msgspec.Struct]:
        if not isinstance(self._current, OutputMessage):
            yield from self._begin(_message())
        self._opened.pieces.append(text)
        self._opened.logprobs += logprobs
        yield types.TextDelta(**self._place, delta=text, logprobs=logprobs)

    def _call_on(self, fragment: CallFragment) -> Iterator[msgspec.Struct]:
        if fragment.index != self._call:
            self._call = fragment.index
            yield from self._begin(self._new_call(fragment))
        if fragment.function.arguments:
            self._opened.pieces.append(fragment.function.arguments)
            yield types.ArgumentsDelta(**self._place, delta=fragment.function.arguments)

    def _new_call(self, fragment: CallFragment) -> OutputCall:
        called = fragment.function.name or ""
        namespace, name = self._offered.origins.get(called, (None, called))
        return OutputCall(
            id=f"fc_{secrets.token_hex(12)}",
            status="in_progress",
            call_id=fragment.id or "",
            name=name,
            namespace=UNSET if namespace is None else namespace,
            arguments="",
        )

    @property
    def _opened(self) -> _Open:
        assert self._open is not None
        return self._open

    @property
    def _current(self) -> OutputItem | None:
        return None if self._open is None else self._open.item

    @property
    def _place(self) -> dict[str, Any]:
        """What every event of the item that grows has."""
        return {
            "item_id": self._opened.item.id,
            "output_index": len(self.items),
            "sequence_number": self.next_number(),
        }

    def _begin(self, item: OutputItem) -> Iterator[msgspec.Struct]:
        yield from self._end("completed")
        self._open = _Open(item)
        yield self._item_event("response.output_item.added", item)
        if not isinstance(item, OutputCall):
            yield types.PartEvent(**self._place, type="response.content_part.added", part=self._part())

    def _end(self, status: Status) -> Iterator[msgspec.Struct]:
        if self._open is None:
            return
        text = "".join(self._open.pieces)
        match self._open.item:
            case OutputCall(name=name):
                yield types.ArgumentsDone(**self._place, name=name, arguments=text)
            case OutputReasoning():
                yield types.ReasoningDone(**self._place, text=text)
            case OutputMessage():
                yield types.TextDone(**self._place, text=text, logprobs=self._open.logprobs)
        if not isinstance(self._open.item, OutputCall):
            yield types.PartEvent(**self._place, type="response.content_part.done", part=self._part())
        item = self._whole(status)
        yield self._item_event("response.output_item.done", item)
        self.items.append(item)
        self._open = None

    def _item_event(self, kind: _ItemKind, item: OutputItem) -> types.ItemEvent:
        return types.ItemEvent(type=kind, output_index=len(self.items), item=item, sequence_number=self.next_number())

    def _part(self) -> types.OutputText | types.ReasoningText:
        """The content of the item that grows."""
        text = "".join(self._opened.pieces)
        if isinstance(self._opened.item, OutputReasoning):
            return types.ReasoningText(text=text)
        return types.OutputText(text=text, logprobs=self._opened.logprobs)

    def _whole(self, status: Status) -> OutputItem:
        item, text = self._opened.item, "".join(self._opened.pieces)
        if isinstance(item, OutputCall):
            return msgspec.structs.replace(item, status=status, arguments=text)
        if isinstance(item, OutputReasoning) and self._encrypts:
            item = msgspec.structs.replace(item, encrypted_content=carried(text))
        return msgspec.structs.replace(item, status=status, content=[self._part()])


def _message() -> OutputMessage:
    return OutputMessage(id=f"msg_{secrets.token_hex(12)}", status="in_progress", content=[])
