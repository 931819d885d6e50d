"""`y = x W^T + b` by our kernels, and the operation that follows in a layer.

The order of a row's sums does not depend on other rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handler.kernels.compiler import multiplies_bytes
from handler.kernels.low_rank.rows import ROW_BYTES, Term, TermRows
from handler.kernels.product.block_dots import compile_dots, dots_scratch, dots_scratch_of_two
from handler.kernels.product.block_form import BLOCK
from handler.kernels.product.block_form import CODES as BY_CODES
from handler.kernels.product.block_layout import PackedBlocks
from handler.kernels.product.matrix_products import compile_matrix_products, matrix_scratch, matrix_shapes
from handler.kernels.product.product_outputs import (
    AHEAD,
    AHEAD_WHOLE,
    BIAS,
    CODES,
    FACTOR,
    NONE,
    NUM_ARGUMENTS,
    NUM_BLOCKS,
    NUM_GROUPS,
    NUM_SECTIONS,
    OTHER,
    OUT,
    OUT_WIDTH,
    PLUS,
    SCALES,
    SHRUNK,
    SHRUNK_WIDTH,
    SILU,
    SLOTS,
    TABLE,
    TIMES,
    X,
)
from handler.kernels.product.product_tile import DENSE
from handler.kernels.product.rounded.activations import ACTIVATIONS
from handler.kernels.product.rounded.dots import compile_rounded
from handler.kernels.product.tile_layout import are_tiles, tiled_weights
from handler.kernels.program import Step, nothing
from handler.kernels.team import Call, float_bits, scratch, team_functions
from handler.kernels.vectors import LANES

# `Step.min_rows` by bits of a weight, measured on the matrix unit.
_MIN_ROWS = {4: 28, 5: 28, 6: 28, 8: 32, DENSE: 64}
_BFLOAT_BYTES = 2


class _Kernel(NamedTuple):
    """Address of the C function; a thread's scratch for some rows and blocks; address of tile shapes, or 0.

    `min_rows` as in `Step`: threads with their own rows each read all weights.
    """

    address: int
    scratch_of: Callable[[int, int], int]
    shapes_of: Callable[[int], int]
    min_rows: int


class _Product:
    """A kernel over one weight of `N` outputs and `K` inputs; activations are bfloat16."""

    def __init__(self, kernels: Sequence[_Kernel], weights: Tensor, scales: Tensor | None, bias: Tensor | None) -> None:
        """`kernels`: the exact one, and perhaps one that rounds activations.

        `weights` `[N / 16, K / 32, ...]`, N a multiple of 64; `scales` in the kernels' layout; `bias` `[N]`.
        """
        num_groups, self._blocks = weights.shape[:2]
        self.out_features, self.in_features = num_groups * LANES, self._blocks * BLOCK
        self._held = (weights, scales, bias)
        self._bound = [(kernel, Call(kernel.address, NUM_ARGUMENTS)) for kernel in kernels]
        for _, call in self._bound:
            self._set_constants(call.arguments, num_groups, weights, scales, bias)

    def _set_constants(
        self, arguments: NDArray[np.int64], num_groups: int, weights: Tensor, scales: Tensor | None, bias: Tensor | None
    ) -> None:
        arguments[NUM_GROUPS] = num_groups
        arguments[NUM_BLOCKS] = self._blocks
        arguments[CODES] = weights.data_ptr()
        arguments[SCALES] = 0 if scales is None else scales.data_ptr()
        arguments[BIAS] = 0 if bias is None else bias.data_ptr()
        arguments[OUT_WIDTH] = self.out_features

    @property
    def rounds(self) -> bool:
        """True if activations are rounded to int8 where `ACTIVATIONS` says so."""
        return len(self._bound) > 1

    def _used(self) -> tuple[_Kernel, Call]:
        return self._bound[-1 if ACTIVATIONS.is_int8 else 0]

    # `term` is what adapters add to `y`, before it is rounded and before the operation that follows.

    def __call__(self, x: Tensor, term: Term | None = None) -> Tensor:
        """`x` bfloat16 `[..., K]` -> `y` `[..., N]`."""
        return self._run(x, NONE, term=term)

    def silu(self, x: Tensor, term: Term | None = None) -> Tensor:
        """`silu(y)`."""
        return self._run(x, SILU, term=term)

    def times(self, x: Tensor, other: Tensor, term: Term | None = None) -> Tensor:
        """`y * other`, `other` bfloat16 `[..., N]`."""
        return self._run(x, TIMES, other, term)

    def plus(self, x: Tensor, other: Tensor, term: Term | None = None) -> Tensor:
        """`y + other`, `other` bfloat16 `[..., N]`."""
        return self._run(x, PLUS, other, term)

    def step(
        self, x: int, out: int, operation: int = NONE, other: int = 0, width: int = 0, term: TermRows | None = None
    ) -> Step:
        """The product as a step of a program; `x`, `out` and `other` are addresses of rows.

        Rows of `out` and `other` have `width` numbers, or as many as there are outputs.
        """
        kernel, call = self._used()
        arguments = call.arguments.copy()
        arguments[OUT_WIDTH] = width = width or self.out_features
        arguments[X : OUT + 1] = (x, other, operation, out)
        scratch_of = _of_rows(kernel.scratch_of, self._blocks)
        into, onto = self.in_features * _BFLOAT_BYTES, width * _BFLOAT_BYTES
        row_bytes = {X: into, OTHER: onto, OUT: onto}
        if term is not None:
            arguments[SHRUNK : SLOTS + 1] = (term.shrunk, term.slots)
            arguments[SHRUNK_WIDTH : NUM_SECTIONS + 1] = (term.width, *term.up.arguments)
            arguments[AHEAD : AHEAD_WHOLE + 1] = term.ahead
            row_bytes |= {SHRUNK: term.width * 4, SLOTS: ROW_BYTES}
        return Step(kernel.address, arguments, scratch_of, kernel.shapes_of, row_bytes, kernel.min_rows)

    def _run(self, x: Tensor, operation: int, other: Tensor | None = None, term: Term | None = None) -> Tensor:
        x = x.contiguous()
        num_rows = x.numel() // self.in_features
        out = x.new_empty(*x.shape[:-1], self.out_features)
        if num_rows == 0:
            return out
        if other is not None:
            other = other.contiguous()
        kernel, call = self._used()
        buffer = scratch(kernel.scratch_of(num_rows, self._blocks))
        where = (buffer.data_ptr(), buffer.stride(0) * 4, kernel.shapes_of(num_rows))
        beside = 0 if other is None else other.data_ptr()
        added = (0, 0) if term is None else (term.rows.numbers.data_ptr(), term.rows.slots.data_ptr())
        call.set(0, *team_functions(), num_rows, *where, x.data_ptr(), beside, operation, out.data_ptr(), *added)
        if term is not None:
            call.arguments[SHRUNK_WIDTH : NUM_SECTIONS + 1] = (term.rows.width, *term.up.arguments)
        call.run()
        return out


class BlockProduct(_Product):
    """With weights of 4 to 8 bits in blocks; those for the matrix unit (AMX) have one form, with minima."""

    def __init__(self, packed: PackedBlocks, bias: Tensor | None) -> None:
        """`packed` has a multiple of 64 outputs; `bias` `[N]`."""
        super().__init__(_block_kernels(packed), packed.codes, packed.scales, bias)
        self._table = packed.table
        for _, call in self._bound:
            call.arguments[TABLE] = 0 if packed.table is None else packed.table.data_ptr()
            call.arguments[FACTOR] = float_bits(packed.factor)


class DenseProduct(_Product):
    """With bfloat16 weights, on the matrix unit; `multiplies_matrices` must be true."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight` bfloat16 `[N, K]`, N a multiple of 64 and K of 32, copied; `bias` `[N]`."""
        self.tiles = tiled_weights(weight)
        super().__init__([_matrix_kernel(DENSE)], self.tiles, None, bias)


def _matrix_kernel(bits: int) -> _Kernel:
    return _Kernel(compile_matrix_products(bits), matrix_scratch, matrix_shapes, _MIN_ROWS[bits])


def _block_kernels(packed: PackedBlocks) -> list[_Kernel]:
    if are_tiles(packed.codes):
        return [_matrix_kernel(packed.form.bits)]
    addresses = [compile_dots(packed.form.number)]
    if ACTIVATIONS.wants_int8 and packed.form.values == BY_CODES and multiplies_bytes():
        addresses.append(compile_rounded(packed.form.number))
    scratch_of = dots_scratch if packed.form.parts == 1 else dots_scratch_of_two
    return [_Kernel(address, scratch_of, nothing, _MIN_ROWS[packed.form.bits]) for address in addresses]


@functools.cache
def _of_rows(scratch_of: Callable[[int, int], int], blocks: int) -> Callable[[int], int]:
    """`scratch_of` for fixed `blocks`; cached, so that a program calls it once for equal shapes."""
    return lambda num_rows: scratch_of(num_rows, blocks)
