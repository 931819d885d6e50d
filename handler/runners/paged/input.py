"""`ScheduledBatch` -> the tensors of one forward pass over pages, flattened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from handler.scheduling.block_manager import TRASH_PAGE
from handler.scheduling.scheduler import ScheduledSequence


@dataclass(frozen=True, slots=True, eq=False)
class PagedInput:
    """One forward pass of T tokens of N sequences.

    `input_ids`, `position_ids` int64 `[1, T]`; `slot_mapping` int64 `[T]`, page * page_size + offset of each token's
    key; `cu_seq_q`, `cu_seq_k` int32 `[N + 1]`, `seqused_k` int32 `[N]`, `block_table` int32 `[N, P]`, `max_q`,
    `max_k` as `varlen.varlen_attention` wants them. `logits_index` int64: the rows whose logits are wanted,
    None for all. `lengths`: (queries, keys) of each sequence, None in static buffers. `num_decodes`: the first
    sequences, of one query each, where prompt chunks follow them; 0 where all sequences are of one kind.
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
    num_decodes: int = 0

    @classmethod
    def of_rows(cls, longs: Sequence[Tensor], ints: Sequence[Tensor], **others: Any) -> PagedInput:
        """Of ids, positions, slots and logits' rows int64, and of both bounds and the lengths of keys int32.

        `flat` packs them in this order. `others` are the fields left.
        """
        ids, positions, slots, chosen = longs
        bounds_q, bounds_k, lengths = ints[:3]
        rows = {"input_ids": ids[None], "position_ids": positions[None], "slot_mapping": slots, "logits_index": chosen}
        return cls(**{**rows, "cu_seq_q": bounds_q, "cu_seq_k": bounds_k, "seqused_k": lengths, **others})

    def on(self, device: torch.device) -> PagedInput:
        """Copy the tensors that attention reads to the device of another layer; the others stay."""
        names = ("position_ids", "slot_mapping", "cu_seq_q", "cu_seq_k", "seqused_k", "block_table")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def parts(self) -> tuple[PagedInput, ...]:
        """What attention computes apart: the decodes, then the chunks. Views; both count rows from the first.

        Chunks of one token each are no different from decodes; and where all sequences have one query, the kernel wants
        as many rows as sequences.
        """
        n = self.num_decodes
        if not n or self.max_q == 1:
            return (self,)
        return (
            self._sequences(slice(None, n), slice(None, n + 1), max_q=1),
            self._sequences(slice(n, None), slice(n, None), max_q=self.max_q),
        )

    def _sequences(self, each: slice, bounds: slice, max_q: int) -> PagedInput:
        return replace(
            self,
            cu_seq_q=self.cu_seq_q[bounds],
            cu_seq_k=self.cu_seq_k[bounds],
            seqused_k=self.seqused_k[each],
            block_table=self.block_table[each],
            max_q=max_q,
            num_decodes=0,
        )


def is_decode(item: ScheduledSequence) -> bool:
    """Whether the item is one token that chooses the next."""
    return item.num_tokens == 1 and item.samples


def build_paged_input(items: Sequence[ScheduledSequence], page_size: int, device: torch.device) -> PagedInput:
    """Pack the items in their order. Logits: rows that choose a token, then all rows of chunks that are scored."""
    starts = [0, *accumulate(item.num_tokens for item in items)]
    lengths = [item.start + item.num_tokens for item in items]
    chosen = [end - 1 for end, item in zip(starts[1:], items, strict=True) if item.samples]
    for start, item in zip(starts, items, strict=False):
        if item.scores_prompt:
            chosen += range(start, start + item.num_tokens)
    width = -(-max(lengths) // page_size)
    tables = [page for item in items for page in (item.seq.block_table + [TRASH_PAGE] * width)[:width]]
    rows = [ids_of(items), positions_of(items), slots_of(items, page_size), chosen]
    host = flat(rows, [starts, [0, *accumulate(lengths)], lengths, tables])
    longs, ints = views(upload(host, device), [len(row) for row in rows], [len(starts)] * 2 + [len(items)])
    return PagedInput.of_rows(
        longs,
        ints,
        block_table=ints[3][: len(tables)].view(len(items), width),
        max_q=max(item.num_tokens for item in items),
        max_k=max(lengths),
        lengths=tuple((item.num_tokens, length) for item, length in zip(items, lengths, strict=True)),
        num_decodes=_leading_decodes(items),
    )


def _leading_decodes(items: Sequence[ScheduledSequence]) -> int:
    """How many decodes stand before the first chunk; 0 if there is no chunk."""
    return next((i for i, item in enumerate(items) if not is_decode(item)), 0)


def ids_of(items: Sequence[ScheduledSequence]) -> list[int]:
    """Token ids of all items, in their order."""
    return [i for item in items for i in item.token_ids]


def positions_of(items: Sequence[ScheduledSequence]) -> list[int]:
    """The position of each token of all items in its sequence."""
    return [position for item in items for position in range(item.start, item.start + item.num_tokens)]


def slots_of(items: Sequence[ScheduledSequence], page_size: int) -> list[int]:
    """page * page_size + offset of each token of all items."""
    return [
        item.seq.block_table[position // page_size] * page_size + position % page_size
        for item in items
        for position in range(item.start, item.start + item.num_tokens)
    ]


def adapters_of(items: Sequence[ScheduledSequence]) -> list[int]:
    """The slot of the adapter of each token of all items; BASE for none."""
    return [item.seq.adapter_slot for item in items for _ in range(item.num_tokens)]


def flat(longs: Sequence[Sequence[int]], ints: Sequence[Sequence[int]]) -> Tensor:
    """Rows of int64, then rows of int32, in one int64 tensor on the host, so that one copy takes all to a device."""
    wide = [number for row in longs for number in row]
    narrow = [number for row in ints for number in row]
    narrow += [0] * (len(narrow) % 2)
    return torch.cat([torch.tensor(wide, dtype=torch.int64), torch.tensor(narrow, dtype=torch.int32).view(torch.int64)])


def views(packed: Tensor, longs: Sequence[int], ints: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """The rows in `packed`, as `flat` packed them, by their lengths; what is left of int32 comes last."""
    num_long = sum(longs)
    narrow = packed[num_long:].view(torch.int32)
    return list(packed[:num_long].split(list(longs))), list(narrow.split([*ints, len(narrow) - sum(ints)]))


def upload(host: Tensor, device: torch.device) -> Tensor:
    """`host` on `device`. The host does not wait for a GPU: the copy is from pinned memory, which torch reuses only
    after the copy."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
