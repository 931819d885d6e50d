"""Root-mean-square norm of rows in one call, where torch makes nine."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from handler.native.compiler import compile_kernel
from handler.native.memory import (
    BITS,
    elements,
    float_argument,
    load,
    store,
    take_ticket,
)
from handler.native.team import Call, float_bits

_TICKET, _NUM_ROWS, _ROWS, _WEIGHT, _EPS, _OUT = range(6)
_NUM_ARGUMENTS = 6
# Fewer numbers than this are done before the other threads have woken up.
_WORTH_A_TEAM = 1 << 16


@functools.cache
def _compile(width: int, bits: int) -> int:
    def kernel(arguments):  # pragma: no cover
        rows = elements(arguments[_ROWS], bits)
        weight = elements(arguments[_WEIGHT], bits)
        out = elements(arguments[_OUT], bits)
        eps = float_argument(arguments, _EPS)
        while True:
            row = take_ticket(arguments, _TICKET)
            if row >= arguments[_NUM_ROWS]:
                break
            squares = np.float32(0)
            for d in range(width):
                x = load(rows, row * width + d)
                squares += x * x
            scale = np.float32(1) / np.sqrt(squares / np.float32(width) + eps)
            for d in range(width):
                store(out, row * width + d, load(rows, row * width + d) * scale * load(weight, d))

    return compile_kernel(kernel)


class RowNorm:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension, in float32, rounded once."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """`weight` `[width]`, kept."""
        self._weight = weight.contiguous()
        self._call = Call(_compile(len(weight), BITS[weight.dtype]), _NUM_ARGUMENTS)
        self._call.arguments[_WEIGHT] = self._weight.data_ptr()
        self._call.arguments[_EPS] = float_bits(eps)

    def __call__(self, x: Tensor) -> Tensor:
        """`x` `[..., width]`; returns the same shape."""
        x = x.contiguous()
        out = torch.empty_like(x)
        arguments = self._call.arguments
        arguments[_TICKET] = 0
        arguments[_NUM_ROWS] = x.numel() // len(self._weight)
        arguments[_ROWS] = x.data_ptr()
        arguments[_OUT] = out.data_ptr()
        self._call.run(parallel=x.numel() >= _WORTH_A_TEAM)
        return out
