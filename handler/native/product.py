"""`y = x W^T + b` by a kernel of ours, and what follows it in a layer.

A row's sums are taken in one order whatever other rows there are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from handler.native.block_dots import compile_dots, dots_scratch
from handler.native.block_matrices import compile_matrices, matrices_scratch, matrices_shapes
from handler.native.block_tile import BLOCK
from handler.native.compiler import multiplies_matrices
from handler.native.dense_matrices import compile_dense, dense_scratch, dense_shapes
from handler.native.product_outputs import (
    BIAS,
    CODES,
    NONE,
    NUM_ARGUMENTS,
    NUM_BLOCKS,
    NUM_GROUPS,
    OUT,
    PLUS,
    SCALES,
    SILU,
    TIMES,
    X,
)
from handler.native.program import Step, nothing
from handler.native.team import Call, scratch
from handler.native.tiles import weight_tiles
from handler.native.vectors import LANES


class _Kernel(NamedTuple):
    """Address of the C function; scratch of a thread for some rows and blocks; address of tiles' shapes, or 0."""

    address: int
    scratch_of: Callable[[int, int], int]
    shapes_of: Callable[[int], int]


class _Product:
    """A kernel over one weight of `N` outputs and `K` inputs; activations are bfloat16."""

    def __init__(self, kernel: _Kernel, weights: Tensor, scales: Tensor | None, bias: Tensor | None) -> None:
        """`weights` `[N / 16, K / 32, ...]`, N a multiple of 64; `scales` as the kernel takes them; `bias` `[N]`."""
        num_groups, self._blocks = weights.shape[:2]
        self.out_features, self.in_features = num_groups * LANES, self._blocks * BLOCK
        self._held = (weights, scales, bias)
        self._kernel = kernel
        self._call = Call(kernel.address, NUM_ARGUMENTS)
        arguments = self._call.arguments
        arguments[NUM_GROUPS] = num_groups
        arguments[NUM_BLOCKS] = self._blocks
        arguments[CODES] = weights.data_ptr()
        arguments[SCALES] = 0 if scales is None else scales.data_ptr()
        arguments[BIAS] = 0 if bias is None else bias.data_ptr()

    def __call__(self, x: Tensor) -> Tensor:
        """`x` bfloat16 `[..., K]` -> `y` `[..., N]`."""
        return self._run(x, NONE)

    def silu(self, x: Tensor) -> Tensor:
        """`silu(y)`."""
        return self._run(x, SILU)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`y * other`, `other` bfloat16 `[..., N]`."""
        return self._run(x, TIMES, other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`y + other`, `other` bfloat16 `[..., N]`."""
        return self._run(x, PLUS, other)

    def step(self, x: int, out: int, operation: int = NONE, other: int = 0) -> Step:
        """The product as part of a program; `x`, `out` and `other` are addresses of `[rows, width]`."""
        arguments = self._call.arguments.copy()
        arguments[X : OUT + 1] = (x, other, operation, out)
        scratch_of, shapes_of = self._kernel.scratch_of, self._kernel.shapes_of
        return Step(self._call.kernel, arguments, _of_rows(scratch_of, self._blocks), shapes_of)

    def _run(self, x: Tensor, operation: int, other: Tensor | None = None) -> Tensor:
        x = x.contiguous()
        num_rows = x.numel() // self.in_features
        out = x.new_empty(*x.shape[:-1], self.out_features)
        if num_rows == 0:
            return out
        if other is not None:
            other = other.contiguous()
        room = scratch(self._kernel.scratch_of(num_rows, self._blocks))
        where = (room.data_ptr(), room.stride(0) * 4, self._kernel.shapes_of(num_rows))
        beside = 0 if other is None else other.data_ptr()
        self._call.set(0, 0, 0, num_rows, *where, x.data_ptr(), beside, operation, out.data_ptr())
        self._call.run()
        return out


class BlockProduct(_Product):
    """Over weights of 4 or 8 bits: `w = scale * code + minimum` for each block of 32."""

    def __init__(self, codes: Tensor, scales: Tensor, bias: Tensor | None, matrices: bool = True) -> None:
        """`codes` and `scales` as `packed_codes` and `packed_scales` make them; N is a multiple of 64. `bias` `[N]`.

        `matrices`: by the processor's matrix unit (AMX), if it has one.
        """
        bits = 4 if codes.dtype is torch.int32 else 8
        if matrices and multiplies_matrices():
            kernel = _Kernel(compile_matrices(bits), matrices_scratch, matrices_shapes)
        else:
            kernel = _Kernel(compile_dots(bits), dots_scratch, nothing)
        super().__init__(kernel, codes, scales, bias)


class DenseProduct(_Product):
    """Over bfloat16 weights, by the matrix unit, which `multiplies_matrices` must have found."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight` bfloat16 `[N, K]`, N a multiple of 64 and K of 32, copied; `bias` `[N]`."""
        self.tiles = weight_tiles(weight)
        super().__init__(_Kernel(compile_dense(), dense_scratch, dense_shapes), self.tiles, None, bias)


@functools.cache
def _of_rows(scratch_of: Callable[[int, int], int], blocks: int) -> Callable[[int], int]:
    """The same function for the same blocks, so that a program asks it once."""
    return lambda num_rows: scratch_of(num_rows, blocks)
