"""`LowRankInput`: what resident adapters add to the products of one input.

Products that read the same activations share the shrunk rows: A of all of them, one below the other.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from handler.kernels.compiler import multiplies_bfloat16
from handler.kernels.low_rank import expand, shrink
from handler.kernels.low_rank.added import WIDE
from handler.kernels.low_rank.ahead import LINE_BYTES
from handler.kernels.low_rank.rows import ENTRY, ROW_BYTES, ShrunkRows, Term, UpTable
from handler.kernels.low_rank.tile import INPUTS
from handler.kernels.program import Step, nothing
from handler.kernels.team import NUM_COMMON, Call, scratch, team_functions
from handler.kernels.vectors import LANES

_FLOAT_BYTES = 4


class Factors(NamedTuple):
    """What an adapter adds to a range of outputs: `scaling * (x A^T) B^T`, and a vector.

    `down` `[r, K]`, `up` `[N, r]`, `bias` `[N]` float32 or None.
    """

    down: Tensor
    up: Tensor
    scaling: float
    bias: Tensor | None = None


class PackedFactors(NamedTuple):
    """What an adapter adds to the products of one input, as kernels read it.

    `tensors`: A, what its outputs are multiplied by and what is added to them, and B of each section that has one;
    `places` of these: product, section, r, where its inputs begin in a shrunk row.
    """

    tensors: list[Tensor]
    places: list[tuple[int, int, int, int]]


def padded_bytes(packed: Sequence[PackedFactors]) -> int:
    """What `packed` take side by side."""
    return sum(-(-each.nbytes // LINE_BYTES) * LINE_BYTES for one in packed for each in one.tensors)


def side_by_side(packed: Sequence[PackedFactors]) -> tuple[list[PackedFactors], Tensor]:
    """Copies of all `packed` in one piece of memory, in their order, and that memory, uint8, in whole cache lines."""
    ends = list(accumulate(-(-each.nbytes // LINE_BYTES) * LINE_BYTES for one in packed for each in one.tensors))
    memory = torch.empty(ends[-1] if ends else 0, dtype=torch.uint8)
    starts = iter([0, *ends])
    moved = []
    for one in packed:
        copies = []
        for tensor in one.tensors:
            start = next(starts)
            copy = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            copies.append(copy.copy_(tensor))
        moved.append(PackedFactors(copies, one.places))
    return moved, memory


class LowRankInput:
    """A of all adapters for one input, and an `UpTable` for each product of it."""

    def __init__(self, in_features: int, sizes: Sequence[Sequence[int]], num_slots: int, dtype: torch.dtype) -> None:
        """`sizes`: for each product the outputs of its sections. `dtype`, that of activations, is what factors have."""
        self.in_features, self._dtype = in_features, dtype
        self._missing = -in_features % INPUTS
        self._paired = dtype is torch.bfloat16 and multiplies_bfloat16()
        self.ups = [UpTable(of_product, num_slots) for of_product in sizes]
        # Address of A as `shrink_tile` takes it or 0, groups, address of multipliers and summands.
        self._downs = np.zeros((num_slots, ENTRY), np.int64)
        self._most_groups = np.zeros(1, np.int64)
        self._held: dict[int, list[Tensor]] = {}
        self._kernel = shrink.compile_shrink(dtype, self._paired)
        self._call = Call(self._kernel, shrink.NUM_ARGUMENTS)

    @property
    def width(self) -> int:
        """Numbers of a shrunk row."""
        return int(self._most_groups[0]) * LANES

    def grow(self, num_slots: int) -> None:
        """Make room for more slots. Programs over these tables are void."""
        downs = np.zeros((num_slots, ENTRY), np.int64)
        downs[: len(self._downs)] = self._downs
        self._downs = downs
        for up in self.ups:
            up.grow(num_slots)

    def clear(self, slot: int) -> None:
        """Let rows of the slot add nothing."""
        self._downs[slot] = 0
        for up in self.ups:
            up.entries[slot] = 0
        self._held.pop(slot, None)
        self._most_groups[0] = self._downs[:, 1].max()

    def put(self, slot: int, factors: Sequence[Sequence[Factors | None]]) -> None:
        """Let rows of the slot add `factors`, by product and section."""
        self.hold(slot, self.packed(factors))

    def packed(self, factors: Sequence[Sequence[Factors | None]]) -> PackedFactors:
        """`factors` as kernels read them. Any thread may do this."""
        downs, numbers, tiles, places = [], [], [], []
        place = 0
        for product, of_product in enumerate(factors):
            for section, one in enumerate(of_product):
                if one is None:
                    continue
                down, scales, up = _whole(one, self._dtype)
                places.append((product, section, up.shape[1], place))
                downs.append(down)
                numbers.append(scales)
                tiles.append(tiled(up, WIDE))
                place += len(down)
        if not downs:
            return PackedFactors([], [])
        down = tiled(F.pad(torch.cat(downs), (0, self._missing)), LANES)
        if self._paired:
            down = down.unflatten(1, (-1, 2)).transpose(2, 3).contiguous()
        return PackedFactors([down, torch.cat(numbers, 1).contiguous(), *tiles], places)

    def hold(self, slot: int, packed: PackedFactors) -> None:
        """Let rows of the slot add what is packed."""
        self.clear(slot)
        if not packed.tensors:
            return
        down, scales, *tiles = packed.tensors
        for tile, (product, section, rank, place) in zip(tiles, packed.places, strict=True):
            self.ups[product].entries[slot, section] = (tile.data_ptr(), rank, place)
        self._held[slot] = packed.tensors
        self._downs[slot] = (down.data_ptr(), len(down), scales.data_ptr())
        self._most_groups[0] = self._downs[:, 1].max()

    def shrunk(self, x: Tensor, slots: Tensor) -> ShrunkRows:
        """`x` `[..., K]` of `dtype`, `slots` int64 `[T]`, T rows in all."""
        x = F.pad(x, (0, self._missing)) if self._missing else x.contiguous()
        out = torch.empty(len(slots), self.width)
        self._call.set(0, *team_functions(), len(slots), 0, 0, 0, x.data_ptr(), slots.data_ptr(), out.data_ptr())
        self._call.arguments[shrink.DOWNS :] = self._constants(out.shape[1])
        self._call.run()
        return ShrunkRows(slots, out)

    def shrink_step(self, x: int, slots: int, out: int, width: int) -> Step:
        """The same as a step of a program; addresses of rows. Those of `out` have `width` numbers."""
        arguments = np.zeros(shrink.NUM_ARGUMENTS, np.int64)
        arguments[NUM_COMMON:] = (x, slots, out, *self._constants(width))
        row_bytes = {
            shrink.X: self.in_features * self._dtype.itemsize,
            shrink.SLOTS: ROW_BYTES,
            shrink.SHRUNK: width * _FLOAT_BYTES,
        }
        return Step(self._kernel, arguments, nothing, nothing, row_bytes)

    def _constants(self, width: int) -> tuple[int, int, int, int]:
        return self._downs.ctypes.data, self.in_features + self._missing, width, self._most_groups.ctypes.data


def _whole(factors: Factors, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A `[16 * n, K]`, float32 multipliers and summands `[2, 16 * n]`, B `[N, m]`, with zeros beyond the rank.

    A bias is one more output of A, which is always 1.
    """
    rank, biased = len(factors.down), factors.bias is not None
    inputs = rank + biased
    padded = -(-inputs // LANES) * LANES
    down = factors.down.new_zeros((padded, factors.down.shape[1]), dtype=dtype)
    down[:rank] = factors.down
    scales = torch.zeros(2, padded)
    scales[0, :rank], scales[1, rank:inputs] = factors.scaling, 1
    up = factors.up.new_zeros((len(factors.up), inputs), dtype=dtype)
    up[:, :rank] = factors.up
    if factors.bias is not None:
        up[:, rank] = factors.bias
    return down, scales, up


def tiled(matrix: Tensor, outputs: int) -> Tensor:
    """`[N, K]` -> `[ceil(N / outputs), K, outputs]`, with zeros beyond N."""
    matrix = F.pad(matrix, (0, 0, 0, -len(matrix) % outputs))
    return matrix.view(-1, outputs, matrix.shape[1]).transpose(1, 2).contiguous()


def expand_into(out: Tensor, term: Term, operation: int = expand.ADD, other: Tensor | None = None) -> None:
    """Add `term` to `out` `[..., N]`, contiguous, in place; `operation` from `expand`, `other` as `out`."""
    rows = term.rows
    call = _expand_call(out.dtype)
    buffer, width = scratch(expand.EXPAND_SCRATCH), rows.width
    if other is not None:
        other = other.contiguous()
    beside = 0 if other is None else other.data_ptr()
    call.set(
        *(0, *team_functions(), len(rows.slots), buffer.data_ptr(), buffer.stride(0) * _FLOAT_BYTES, 0),
        *(rows.numbers.data_ptr(), rows.slots.data_ptr(), out.data_ptr(), beside, operation, width, out.shape[-1]),
        *term.up.arguments,
    )
    call.run()


@functools.cache
def _expand_call(dtype: torch.dtype) -> Call:
    return Call(expand.compile_expand(dtype), expand.NUM_ARGUMENTS)
