"""`ScheduledBatch` -> the tensors of one forward pass over pages: flattened, or in static buffers for decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from handler.scheduling.block_manager import TRASH_PAGE
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence


@dataclass(frozen=True, slots=True, eq=False)
class PagedInput:
    """One forward pass of T tokens of N sequences.

    `input_ids`, `position_ids` int64 `[1, T]`; `slot_mapping` int64 `[T]`, page * page_size + offset of each token's
    key; `cu_seq_q`, `cu_seq_k` int32 `[N + 1]`, `seqused_k` int32 `[N]`, `block_table` int32 `[N, P]`, `max_q`,
    `max_k` as `varlen.varlen_attention` wants them. `logits_index` int64: the rows whose logits are wanted,
    None for all. `lengths`: (queries, keys) of each sequence, None in static buffers.
    """

    input_ids: Tensor
    position_ids: Tensor
    slot_mapping: Tensor
    cu_seq_q: Tensor
    cu_seq_k: Tensor
    seqused_k: Tensor
    block_table: Tensor
    max_q: int
    max_k: int
    logits_index: Tensor | None
    lengths: tuple[tuple[int, int], ...] | None = None

    def on(self, device: torch.device) -> PagedInput:
        """Copy the tensors that attention reads to the device of another layer; the others stay."""
        names = ("position_ids", "slot_mapping", "cu_seq_q", "cu_seq_k", "seqused_k", "block_table")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def build_paged_input(batch: ScheduledBatch, page_size: int, device: torch.device) -> PagedInput:
    """Pack the batch in its order. Logits: rows that choose a token, then all rows of chunks that are scored."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    lengths: list[int] = []
    chosen: list[int] = []
    scored: list[int] = []
    for item in batch.items:
        end = item.start + item.num_tokens
        ids += item.seq.token_ids[item.start : end]
        positions += range(item.start, end)
        slots += (_slot(item.seq.block_table, position, page_size) for position in range(item.start, end))
        if item.scores_prompt:
            scored += range(starts[-1], len(ids))
        starts.append(len(ids))
        lengths.append(end)
        if item.samples:
            chosen.append(len(ids) - 1)
    width = -(-max(lengths) // page_size)
    tables = [(item.seq.block_table + [TRASH_PAGE] * width)[:width] for item in batch.items]
    return PagedInput(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        slot_mapping=torch.tensor(slots, device=device),
        cu_seq_q=torch.tensor(starts, dtype=torch.int32, device=device),
        cu_seq_k=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device),
        seqused_k=torch.tensor(lengths, dtype=torch.int32, device=device),
        block_table=torch.tensor(tables, dtype=torch.int32, device=device),
        max_q=max(item.num_tokens for item in batch.items),
        max_k=max(lengths),
        logits_index=torch.tensor(chosen + scored, dtype=torch.long, device=device),
        lengths=tuple((item.num_tokens, item.start + item.num_tokens) for item in batch.items),
    )


def batch_sizes(max_num_seqs: int) -> list[int]:
    """Sizes that decode batches are padded to: 1, 2, 4, then multiples of 8, and the largest batch there is."""
    sizes = [1, 2, 4, *range(8, max_num_seqs, 8)]
    return [size for size in sizes if size < max_num_seqs] + [max_num_seqs]


class DecodeBuffers:
    """The input of a decode step, always in the same memory, so that a captured graph finds it.

    A batch is padded to the next of `sizes`. Padding rows are token 0 at position 0 of the trash page, one key long:
    they compute something finite that nobody reads, and touch no page of a sequence.
    """

    def __init__(self, max_num_seqs: int, max_len: int, page_size: int, device: torch.device) -> None:
        self.sizes = batch_sizes(max_num_seqs)
        self._page_size = page_size
        self._max_k = -(-max_len // page_size) * page_size
        self._rows = torch.zeros(3, max_num_seqs, dtype=torch.int64, device=device)
        self._lengths = torch.zeros(2, max_num_seqs + 1, dtype=torch.int32, device=device)
        self._starts = torch.arange(max_num_seqs + 1, dtype=torch.int32, device=device)
        self._table = torch.full((max_num_seqs, self._max_k // page_size), TRASH_PAGE, dtype=torch.int32, device=device)
        # The table as the host last wrote it, so that only rows that changed are written again.
        self._host_table = self._table.cpu().clone()
        self._tables: list[list[int]] = [[] for _ in range(max_num_seqs)]

    def view(self, size: int) -> PagedInput:
        """The first `size` rows, whatever they hold."""
        return PagedInput(
            input_ids=self._rows[0:1, :size],
            position_ids=self._rows[1:2, :size],
            slot_mapping=self._rows[2, :size],
            cu_seq_q=self._starts[: size + 1],
            cu_seq_k=self._lengths[0, : size + 1],
            seqused_k=self._lengths[1, :size],
            block_table=self._table[:size],
            max_q=1,
            max_k=self._max_k,
            logits_index=None,
        )

    def fill(self, items: Sequence[ScheduledSequence], size: int | None = None) -> int:
        """Write one token of each item, and padding up to `size` rows (None: the next of `sizes`), which it returns."""
        size = size or next(size for size in self.sizes if size >= len(items))
        padding = [0] * (size - len(items))
        slots = [_slot(item.seq.block_table, item.start, self._page_size) for item in items]
        lengths = [item.start + 1 for item in items] + [1] * len(padding)
        rows = [[item.seq.token_ids[item.start] for item in items], [item.start for item in items], slots]
        self._rows[:, :size].copy_(torch.tensor([row + padding for row in rows]))
        sums = [0, *accumulate(lengths)]
        self._lengths[:, : size + 1].copy_(torch.tensor([sums, [*lengths, 0]], dtype=torch.int32))
        for row in range(size):
            self._write_table(row, items[row].seq.block_table if row < len(items) else [])
        self._table[:size].copy_(self._host_table[:size])
        return size

    def _write_table(self, row: int, table: list[int]) -> None:
        if self._tables[row] != table:
            self._tables[row] = list(table)
            self._host_table[row] = TRASH_PAGE
            self._host_table[row, : len(table)] = torch.tensor(table, dtype=torch.int32)


def _slot(table: list[int], position: int, page_size: int) -> int:
    return table[position // page_size] * page_size + position % page_size
