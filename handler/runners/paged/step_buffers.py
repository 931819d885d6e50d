"""The input of a step in memory that never moves, so that a captured graph finds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from handler.adapters.rows import BASE
from handler.runners.paged.input import PagedInput, flat, ids_of, positions_of, slots_of, views
from handler.scheduling.block_manager import TRASH_PAGE
from handler.scheduling.scheduler import ScheduledSequence

# Prompt chunks of one static step. Many short prompts at once are many tokens: such a step keeps a GPU busy anyway.
MAX_CHUNKS = 8
# Tokens that the chunks of a static step are padded to. Up to 64 or so cost what reading the weights costs anyway.
_CHUNK_TOKENS = (64, 256, 512)
# Above so many tokens a GPU computes a step of an 8B model for longer than the host needs to launch it without a graph
# (20 to 35 ms), so a graph gains nothing and its padding costs. By compute capability. Arithmetic, not measured.
_MOST_TOKENS = {(8, 0): 384, (9, 0): 768, (10, 0): 1024}
_FEWEST_TOKENS = 96


class Shape(NamedTuple):
    """Rows of a static step: decodes, then tokens of prompt chunks."""

    num_decodes: int
    num_chunk_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """Rows that go through the model."""
        return self.num_decodes + self.num_chunk_tokens

    @property
    def num_seqs(self) -> int:
        """Sequences, those of padding included; each has one row of logits."""
        return self.num_decodes + (MAX_CHUNKS + 1 if self.num_chunk_tokens else 0)

    def holds(self, num_decodes: int, chunks: Sequence[ScheduledSequence]) -> bool:
        """Whether decodes and chunks fit. A step without chunks takes no shape with some."""
        num_tokens = sum(item.num_tokens for item in chunks)
        fits = num_decodes <= self.num_decodes and num_tokens <= self.num_chunk_tokens and len(chunks) <= MAX_CHUNKS
        return fits and bool(chunks) == bool(self.num_chunk_tokens)


def decode_shapes(max_num_seqs: int) -> list[Shape]:
    """What decode batches are padded to: 1, 2, 4, multiples of 8 to 64, of 16 to 128, of 32 to 256, and so on.

    A step takes as long as reading the weights, so a fifth of padding in a large batch costs little, while each size
    costs a tenth of a second at the start: 19 captures serve 256 sequences instead of 34.
    """
    sizes, size = [1, 2, 4], 8
    while size < max_num_seqs:
        sizes.append(size)
        size += max(8, 1 << (size.bit_length() - 3))
    return [Shape(size) for size in sizes if size < max_num_seqs] + [Shape(max_num_seqs)]


def mixed_shapes(max_num_seqs: int, max_len: int, capability: tuple[int, int]) -> list[Shape]:
    """Steps that hold prompt chunks of up to `max_len` tokens beside decodes, or alone."""
    most = _MOST_TOKENS.get(capability, _FEWEST_TOKENS)
    decodes = [0, *(size for size in (8, 32, 128) if size < max_num_seqs), max_num_seqs]
    found = [Shape(n, tokens) for n in decodes for tokens in _CHUNK_TOKENS if tokens <= max_len]
    return [shape for shape in found if shape.num_tokens <= most]


def smallest(shapes: Iterable[Shape], num_decodes: int, chunks: Sequence[ScheduledSequence]) -> Shape | None:
    """The shape with the fewest rows that holds decodes and chunks, or None."""
    held = [shape for shape in shapes if shape.holds(num_decodes, chunks)]
    return min(held, key=lambda shape: shape.num_tokens, default=None)


class StepBuffers:
    """Tensors of a step of any of `shapes`, each shape at the same place in every step.

    Padding rows are token 0 at position 0: a padded decode is one key long, padded chunk tokens are one more sequence.
    Their keys go to the trash page. They compute something finite that nobody reads, and touch no page of a sequence.
    """

    def __init__(self, shapes: Sequence[Shape], max_len: int, page_size: int, device: torch.device) -> None:
        self._page_size = page_size
        self._max_k = -(-max_len // page_size) * page_size
        self._flat = torch.zeros(max(map(_num_longs, shapes)), dtype=torch.int64, device=device)
        self._adapters = torch.full([max(shape.num_tokens for shape in shapes)], BASE, dtype=torch.int32, device=device)
        size = (max(shape.num_seqs for shape in shapes), self._max_k // page_size)
        self._table = torch.full(size, TRASH_PAGE, dtype=torch.int32, device=device)
        # The table as the host last wrote it, so that only rows that changed are written again.
        self._host_table = torch.full(size, TRASH_PAGE, dtype=torch.int32)
        self._tables: list[list[int] | None] = [[] for _ in range(size[0])]

    def view(self, shape: Shape) -> PagedInput:
        """The rows of `shape`, whatever they hold."""
        rows, seqs = shape.num_tokens, shape.num_seqs
        longs, ints = views(self._flat[: _num_longs(shape)], [rows, rows, rows, seqs], [seqs + 1, seqs + 1, seqs])
        found = PagedInput.of_rows(
            longs,
            ints,
            block_table=self._table[:seqs],
            max_q=shape.num_chunk_tokens or 1,
            max_k=self._max_k,
            num_decodes=shape.num_decodes if shape.num_chunk_tokens else 0,
        )
        return found if shape.num_chunk_tokens else replace(found, logits_index=None)

    def fill(self, shape: Shape, decodes: Sequence[ScheduledSequence], chunks: Sequence[ScheduledSequence]) -> None:
        """Write one token of each decode and all of each chunk, and padding up to `shape`.

        Logits `[num_seqs, vocab]` of the step: a row of each decode, padding, then the last row of each chunk.
        """
        idle = [0] * (shape.num_decodes - len(decodes))
        chunk_ends = list(accumulate((item.num_tokens for item in chunks), initial=shape.num_decodes))
        spare = shape.num_tokens - chunk_ends[-1]
        trash = [TRASH_PAGE * self._page_size + i % self._page_size for i in range(spare)]
        rows = [
            [*ids_of(decodes), *idle, *ids_of(chunks), *[0] * spare],
            [*positions_of(decodes), *idle, *positions_of(chunks), *[0] * spare],
            [*slots_of(decodes, self._page_size), *idle, *slots_of(chunks, self._page_size), *trash],
        ]
        unused = shape.num_seqs - shape.num_decodes - len(chunks)
        ends = [*chunk_ends, *[shape.num_tokens] * unused]
        lengths = [item.start + 1 for item in decodes] + [1] * len(idle)
        lengths += [item.start + item.num_tokens for item in chunks]
        lengths += ([max(1, spare)] + [1] * unused)[:unused]
        bounds = [*range(shape.num_decodes), *ends]
        rows.append([end - 1 for end in bounds[1:]])
        _copy(flat(rows, [bounds, [0, *accumulate(lengths)], lengths]), self._flat[: _num_longs(shape)])
        self._write_tables([*decodes, *[None] * len(idle), *chunks, *[None] * unused])

    def adapter_slots(self, shape: Shape) -> Tensor:
        """The adapter of each row of `shape`, int32 `[T]`, as last written."""
        return self._adapters[: shape.num_tokens]

    def fill_adapters(self, shape: Shape, slots: Sequence[int]) -> None:
        """Write the adapter of each row of `shape`."""
        _copy(torch.tensor(slots, dtype=torch.int32), self.adapter_slots(shape))

    def _write_tables(self, items: Sequence[ScheduledSequence | None]) -> None:
        """Upload the rows from the first to the last that changed; most steps change none."""
        wanted = [[] if item is None else item.seq.block_table for item in items]
        changed = [row for row, table in enumerate(wanted) if self._tables[row] != table]
        for row in changed:
            # Unknown until the upload is made: it may fail, for want of pinned memory, and the step then runs again.
            self._tables[row] = None
            self._host_table[row] = TRASH_PAGE
            self._host_table[row, : len(wanted[row])] = torch.tensor(wanted[row], dtype=torch.int32)
        if changed:
            rows = slice(changed[0], changed[-1] + 1)
            _copy(self._host_table[rows], self._table[rows])
        for row in changed:
            self._tables[row] = list(wanted[row])


def _num_longs(shape: Shape) -> int:
    return 3 * shape.num_tokens + shape.num_seqs + -(-(3 * shape.num_seqs + 2) // 2)


def _copy(host: Tensor, into: Tensor) -> None:
    """As `input.upload`, into memory that exists."""
    into.copy_(host.pin_memory() if into.is_cuda else host, non_blocking=True)
