"""Products with weights of 4 and 8 bits for any number of rows, and what follows them in a layer.

`y = x W^T + b` with `w = scale * code + minimum` for each block of 32. A row's sums are taken in one order whatever
other rows there are.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from handler.native.block_tile import BLOCK, block_tile, interleave_eight
from handler.native.compiler import compile_kernel
from handler.native.memory import (
    BITS_BFLOAT16,
    BITS_FLOAT32,
    bytes_at,
    called,
    elements,
    exp_of_negative,
    load,
    shifted,
    store,
    take_ticket,
)
from handler.native.team import Call, scratch
from handler.native.vectors import LANES

# Groups of 16 outputs that a thread takes at a time, and rows that go through a group together.
_GROUPS = 4
_ROWS = 8

# Products of a tile, before what follows them.
_PRODUCTS = _ROWS * _GROUPS * LANES

_NONE, _SILU, _TIMES, _PLUS = range(4)

_THREAD, _TICKET, _NUM_ROWS, _NUM_GROUPS, _NUM_BLOCKS = range(5)
_X, _CODES, _SCALES, _BIAS, _OTHER, _OPERATION, _OUT, _SCRATCH, _SCRATCH_STRIDE = range(5, 14)
_NUM_ARGUMENTS = 14


@called
def _finish(
    scratch, num_rows, num_groups, row, group, width, has_bias, bias, operation, other, out
):  # pragma: no cover
    """From products in `scratch` to the output, rounded once."""
    count, first = num_groups * LANES, group * LANES
    for r in range(num_rows):
        to = (row + r) * width + first
        at = r * count
        if has_bias:
            for n in range(count):
                store(scratch, at + n, load(scratch, at + n) + load(bias, first + n))
        if operation == _SILU:
            for n in range(count):
                y = load(scratch, at + n)
                e = exp_of_negative(-abs(y))
                store(out, to + n, y * (np.float32(1) if y >= 0 else e) / (np.float32(1) + e))
        elif operation == _TIMES:
            for n in range(count):
                store(out, to + n, load(scratch, at + n) * load(other, to + n))
        elif operation == _PLUS:
            for n in range(count):
                store(out, to + n, load(scratch, at + n) + load(other, to + n))
        else:
            for n in range(count):
                store(out, to + n, load(scratch, at + n))


@called
def _interleave(x, num_rows, blocks, pairs, sums):  # pragma: no cover
    """Rows as `block_tile` takes them, 8 at a time and then the rest; `x` `[num_rows, blocks * 32]`."""
    width = blocks * (BLOCK // 2)
    for first in range(0, num_rows, _ROWS):
        rows = min(_ROWS, num_rows - first)
        if rows == _ROWS:
            interleave_eight(bytes_at(x + first * width * 4), width, width, shifted(pairs, first * width))
        for r in range(rows):
            numbers = elements(x + (first + r) * width * 4, BITS_BFLOAT16)
            if rows < _ROWS:
                source = bytes_at(x + (first + r) * width * 4)
                for i in range(width):
                    pairs[first * width + i * rows + r] = source[i]
            for b in range(blocks):
                total = np.float32(0)
                for k in range(BLOCK):
                    total += load(numbers, b * BLOCK + k)
                store(sums, first * blocks + b * rows + r, total)


@functools.cache
def _compile(bits: int) -> int:
    def kernel(arguments):  # pragma: no cover
        num_rows, num_groups = arguments[_NUM_ROWS], arguments[_NUM_GROUPS]
        blocks = arguments[_NUM_BLOCKS]
        out = elements(arguments[_OUT], BITS_BFLOAT16)
        bias, other = elements(arguments[_BIAS], BITS_BFLOAT16), elements(arguments[_OTHER], BITS_BFLOAT16)
        has_bias, operation, width = arguments[_BIAS] != 0, arguments[_OPERATION], num_groups * LANES
        address = arguments[_SCRATCH] + take_ticket(arguments, _THREAD) * arguments[_SCRATCH_STRIDE]
        found, sums_at = elements(address, BITS_FLOAT32), address + _PRODUCTS * 4
        pairs_at = sums_at + num_rows * blocks * 4
        _interleave(arguments[_X], num_rows, blocks, bytes_at(pairs_at), elements(sums_at, BITS_FLOAT32))
        item = take_ticket(arguments, _TICKET)
        while item * _GROUPS < num_groups:
            row = 0
            while row < num_rows:
                rows = min(_ROWS, num_rows - row)
                x = bytes_at(pairs_at + row * blocks * (BLOCK // 2) * 4)
                sums = elements(sums_at + row * blocks * 4, BITS_FLOAT32)
                group = item * _GROUPS
                last = group + _GROUPS
                while group < last:
                    codes = bytes_at(arguments[_CODES] + group * blocks * (BLOCK * LANES * bits // 8))
                    scales = bytes_at(arguments[_SCALES] + group * blocks * (LANES * 4))
                    # Fewer rows go with more groups, so that as many sums are under way at a time.
                    groups = 1
                    if rows == 8:
                        block_tile(8, 1, bits, codes, scales, x, sums, blocks, found)
                    elif rows == 7:
                        block_tile(7, 1, bits, codes, scales, x, sums, blocks, found)
                    elif rows == 6:
                        block_tile(6, 1, bits, codes, scales, x, sums, blocks, found)
                    elif rows == 5:
                        block_tile(5, 1, bits, codes, scales, x, sums, blocks, found)
                    elif rows == 4:
                        groups = 2
                        block_tile(4, 2, bits, codes, scales, x, sums, blocks, found)
                    elif rows == 3:
                        groups = 2
                        block_tile(3, 2, bits, codes, scales, x, sums, blocks, found)
                    elif rows == 2:
                        groups = 4
                        block_tile(2, 4, bits, codes, scales, x, sums, blocks, found)
                    else:
                        groups = 4
                        block_tile(1, 4, bits, codes, scales, x, sums, blocks, found)
                    _finish(found, rows, groups, row, group, width, has_bias, bias, operation, other, out)
                    group += groups
                row += rows
            item = take_ticket(arguments, _TICKET)

    return compile_kernel(kernel)


class BlockProduct:
    """The kernel over one weight of `N` outputs and `K` inputs."""

    def __init__(self, codes: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        """`codes` and `scales` as `packed_codes` and `packed_scales` make them; N is a multiple of 64. `bias` `[N]`."""
        num_groups, blocks = codes.shape[:2]
        self.out_features, self.in_features = num_groups * LANES, blocks * BLOCK
        self._held = (codes, scales, bias)
        self._call = Call(_compile(4 if codes.dtype is torch.int32 else 8), _NUM_ARGUMENTS)
        arguments = self._call.arguments
        arguments[_NUM_GROUPS] = num_groups
        arguments[_NUM_BLOCKS] = blocks
        arguments[_CODES], arguments[_SCALES] = codes.data_ptr(), scales.data_ptr()
        arguments[_BIAS] = 0 if bias is None else bias.data_ptr()

    def __call__(self, x: Tensor) -> Tensor:
        """`x` bfloat16 `[..., K]` -> `y` `[..., N]`."""
        return self._run(x, _NONE)

    def silu(self, x: Tensor) -> Tensor:
        """`silu(y)`."""
        return self._run(x, _SILU)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`y * other`, `other` bfloat16 `[..., N]`."""
        return self._run(x, _TIMES, other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`y + other`, `other` bfloat16 `[..., N]`."""
        return self._run(x, _PLUS, other)

    def _run(self, x: Tensor, operation: int, other: Tensor | None = None) -> Tensor:
        x = x.contiguous()
        num_rows = x.numel() // self.in_features
        out = x.new_empty(*x.shape[:-1], self.out_features)
        room = scratch(_PRODUCTS + num_rows * (self.in_features // BLOCK) * (1 + BLOCK // 2))
        arguments = self._call.arguments
        arguments[: _NUM_ROWS + 1] = (0, 0, num_rows)
        arguments[_X] = x.data_ptr()
        if other is not None:
            other = other.contiguous()
            arguments[_OTHER] = other.data_ptr()
        arguments[_OPERATION:] = (operation, out.data_ptr(), room.data_ptr(), room.stride(0) * 4)
        self._call.run()
        return out


def packed_codes(codes: Tensor, bits: int) -> Tensor:
    """`codes` uint8 `[N, K]` as `block_tile` reads them: int32 `[N / 16, K / 32, 4, 16]`, or uint8."""
    num_rows, num_columns = codes.shape
    if bits == 8:
        pairs = codes.view(num_rows // LANES, LANES, num_columns // BLOCK, BLOCK // 2, 2)
        return pairs.permute(0, 2, 3, 1, 4).contiguous()
    eights = codes.view(num_rows // LANES, LANES, num_columns // BLOCK, 4, 4, 2).int()
    shifts = 4 * torch.arange(4)[:, None] + 16 * torch.arange(2)
    return (eights << shifts).sum((-1, -2), dtype=torch.int32).permute(0, 2, 3, 1).contiguous()


def packed_scales(scale: Tensor, minimum: Tensor) -> Tensor:
    """Float16 `[N / 16, K / 32, 2, 16]`."""
    both = torch.stack((scale, minimum), -1).half()
    return both.view(-1, LANES, *both.shape[1:]).permute(0, 2, 3, 1).contiguous()
