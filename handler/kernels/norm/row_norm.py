"""RMS norm of rows in one call, where torch needs nine."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from handler.kernels.compiler import compile_kernel, multiplies_bfloat16
from handler.kernels.norm.norm_tile import norm_row
from handler.kernels.primitives import (
    BITS,
    elements,
    float_argument,
    load,
    share_of,
    store,
)
from handler.kernels.program import Step, nothing
from handler.kernels.team import NUM_COMMON, NUM_ROWS, Call, float_bits, team_functions
from handler.kernels.vectors import LANES

_ROWS, _OUT, _WEIGHT, _EPS, _PARTS, _STRIDE = range(NUM_COMMON, NUM_COMMON + 6)
_NUM_ARGUMENTS = NUM_COMMON + 6
# Fewer elements than this are done before the other threads wake up.
_MIN_PARALLEL = 1 << 16


@functools.cache
def _compile(width: int, bits: int, in_vectors: int) -> int:
    def kernel(arguments):  # pragma: no cover
        rows = elements(arguments[_ROWS], bits)
        weight = elements(arguments[_WEIGHT], bits)
        out = elements(arguments[_OUT], bits)
        eps, parts = float_argument(arguments, _EPS), arguments[_PARTS]
        first, end = share_of(arguments, arguments[NUM_ROWS] * parts)
        for number in range(first, end):
            at = number // parts * arguments[_STRIDE] + number % parts * width
            if in_vectors:
                norm_row(width, arguments[_ROWS] + 2 * at, arguments[_WEIGHT], arguments[_OUT] + 2 * at, eps)
                continue
            squares = np.float32(0)
            for d in range(width):
                x = load(rows, at + d)
                squares += x * x
            scale = np.float32(1) / np.sqrt(squares / np.float32(width) + eps)
            for d in range(width):
                store(out, at + d, load(rows, at + d) * scale * load(weight, d))

    return compile_kernel(kernel)


class RowNorm:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension, in float32, rounded once."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """`weight` `[width]`, not copied if contiguous."""
        self._weight = weight.contiguous()
        self._width = len(weight)
        in_vectors = weight.dtype is torch.bfloat16 and len(weight) % LANES == 0 and multiplies_bfloat16()
        self._call = Call(_compile(len(weight), BITS[weight.dtype], int(in_vectors)), _NUM_ARGUMENTS)
        self._call.arguments[_WEIGHT] = self._weight.data_ptr()
        self._call.arguments[_EPS] = float_bits(eps)
        self._call.arguments[_PARTS:] = (1, self._width)

    def step(self, x: int, out: int) -> Step:
        """The norm as a step of a program; `x` and `out` are addresses of `[rows, width]`."""
        arguments = self._call.arguments.copy()
        arguments[_ROWS : _OUT + 1] = (x, out)
        row = self._width * self._weight.element_size()
        return Step(self._call.kernel, arguments, nothing, nothing, {_ROWS: row, _OUT: row})

    def step_of_parts(self, x: int, num_parts: int, stride: int) -> Step:
        """The norm of each row's first `num_parts` parts, in place. Rows begin at `x`, `stride` elements apart."""
        step, row = self.step(x, x), stride * self._weight.element_size()
        step.arguments[_PARTS:] = (num_parts, stride)
        return step._replace(row_bytes={_ROWS: row, _OUT: row})

    def __call__(self, x: Tensor) -> Tensor:
        """`x` `[..., width]`; returns the same shape."""
        x = x.contiguous()
        out = torch.empty_like(x)
        self._call.set(0, *team_functions(), x.numel() // self._width, 0, 0, 0, x.data_ptr(), out.data_ptr())
        self._call.run(parallel=x.numel() >= _MIN_PARALLEL)
        return out
