"""Static steps of tokens whose text is already in pages: what each captured graph is proven on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from handler.adapters.rows import BASE
from handler.runners.limits import Limits
from handler.runners.paged.input import positions_of
from handler.runners.paged.step_buffers import MAX_CHUNKS, Shape, StepBuffers
from handler.runners.runner import Runner
from handler.runners.trial import compare
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams

# Steps between the positions of neighbouring rows.
_STRIDE = 5


class StaticRunner(Runner, Protocol):
    """A runner whose steps can be static."""

    limits: Limits

    def static_forward(self, shape: Shape, adapters: bool) -> Tensor:
        """Logits `[num_seqs, vocab]` of the static buffers' rows; `adapters`: their adapters add to them."""


class ProbeStep:
    """`StaticStep` over one sequence. Its rows write again the keys that its pages hold."""

    def __init__(self, runner: StaticRunner, buffers: StepBuffers, seq: Sequence, adapters: bool) -> None:
        """`adapters`: half of the rows have the adapter in slot 0."""
        self._runner, self._buffers, self._seq, self._adapters = runner, buffers, seq, adapters
        self._is_written = False

    def forward(self, shape: Shape) -> Tensor:
        """As `StaticStep.forward`."""
        return self._runner.static_forward(shape, self._adapters)

    def clear(self, shape: Shape) -> None:
        """As `StaticStep.clear`."""
        self._fill(shape, [], [])

    def fill_probe(self, shape: Shape) -> None:
        """Decodes at positions all over the text, and chunks that begin after its beginning."""
        if not self._is_written:
            self._runner.run(ScheduledBatch([self._item(0, len(self._seq.token_ids))]))
            self._is_written = True
        last = len(self._seq.token_ids) - 1
        decodes = [self._item(last - _STRIDE * i % (last + 1), 1) for i in range(shape.num_decodes)]
        self._fill(shape, decodes, self._chunks(shape))

    def _fill(self, shape: Shape, decodes: list[ScheduledSequence], chunks: list[ScheduledSequence]) -> None:
        self._buffers.fill(shape, decodes, chunks)
        idle = [BASE] * (shape.num_decodes - len(decodes))
        slots = [*_slots(decodes), *idle, *_slots(chunks)]
        self._buffers.fill_adapters(shape, [*slots, *[BASE] * (shape.num_tokens - len(slots))])

    def _chunks(self, shape: Shape) -> list[ScheduledSequence]:
        """A few chunks of one length, with room for some padding."""
        if not shape.num_chunk_tokens:
            return []
        length, most = len(self._seq.token_ids), shape.num_chunk_tokens * 7 // 8
        size = min(max(most // 2, -(-most // MAX_CHUNKS)), max(1, length - 1))
        count = min(MAX_CHUNKS, most // size)
        return [self._item(length - size - _STRIDE * i % max(1, length - size), size) for i in range(count)]

    def _item(self, start: int, num_tokens: int) -> ScheduledSequence:
        return ScheduledSequence(self._seq, start, num_tokens)

    def differs(self, shape: Shape, expected: Tensor, found: Tensor) -> str | None:
        """As `StaticStep.differs`; rows of padding do not count."""
        rows = shape.num_decodes + len(self._chunks(shape))
        return compare(expected[:rows].float(), found[:rows].float(), self._runner.loaded)


def _slots(items: list[ScheduledSequence]) -> list[int]:
    """By position: rows that write the same key must agree on it."""
    return [BASE if position % 2 else 0 for position in positions_of(items)]


@contextmanager
def probe(runner: StaticRunner, buffers: StepBuffers, text: list[int], adapters: bool = False) -> Iterator[ProbeStep]:
    """Static steps of `text`, at most the longest sequence, which takes pages for the length of the block.

    `adapters`: half of the rows have the adapter in slot 0.
    """
    seq = Sequence(GenerateRequest("probe", text, SamplingParams(max_tokens=1, seed=0), 1.0), b"", 0.0, 1.0)
    kv = runner.kv_manager(runner.limits)
    if not kv.reserve(seq, len(text)):
        raise RuntimeError("KV memory does not hold one sequence")
    try:
        yield ProbeStep(runner, buffers, seq, adapters)
    finally:
        kv.release(seq)
