"""Which adapter each row of a step over pages uses, and each row that reaches the output layer."""

from __future__ import annotations

from collections.abc import Sequence

from handler.adapters.rows import BASE
from handler.runners.paged.input import adapters_of
from handler.runners.paged.step_buffers import Shape
from handler.scheduling.scheduler import ScheduledSequence


def used_slots(items: Sequence[ScheduledSequence]) -> set[int]:
    """The slots of the adapters in a batch."""
    return {item.seq.adapter_slot for item in items} - {BASE}


def static_slots(
    shape: Shape, decodes: Sequence[ScheduledSequence], chunks: Sequence[ScheduledSequence]
) -> tuple[list[int], list[int]]:
    """Of the rows of a static step, padding included, and of its rows of logits."""
    own, idle = adapters_of(decodes), [BASE] * (shape.num_decodes - len(decodes))
    rows = [*own, *idle, *adapters_of(chunks)]
    ends = [*own, *idle, *(item.seq.adapter_slot for item in chunks)]
    return _padded(rows, shape.num_tokens), _padded(ends, shape.num_seqs)


def packed_slots(items: Sequence[ScheduledSequence]) -> tuple[list[int], list[int]]:
    """As `static_slots`, of a step as `build_paged_input` packs it."""
    chosen = [item.seq.adapter_slot for item in items if item.samples]
    return adapters_of(items), [*chosen, *adapters_of([item for item in items if item.scores_prompt])]


def _padded(slots: list[int], length: int) -> list[int]:
    return [*slots, *[BASE] * (length - len(slots))]
