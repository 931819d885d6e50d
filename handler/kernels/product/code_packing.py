"""Packs codes of 4, 5 and 6 bits for `block_tile` in one pass, on all threads."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from handler.kernels.compiler import compile_kernel
from handler.kernels.primitives import bytes_at, integers, share_of
from handler.kernels.product.block_form import BLOCK
from handler.kernels.team import NUM_COMMON, NUM_ROWS, Call, team_functions
from handler.kernels.vectors import LANES

_CODES, _OUT, _BLOCKS, _BITS = range(NUM_COMMON, NUM_COMMON + 4)
_NUM_ARGUMENTS = NUM_COMMON + 4
# Codes in a 64-bit integer, and such integers in a block.
_EIGHT = 8
_EIGHTS = BLOCK // _EIGHT
_LOW_NIBBLES, _NIBBLE = 0x0F0F0F0F0F0F0F0F, 4
# Codes done before the other threads wake up.
_MIN_PARALLEL = 1 << 16


@functools.cache
def _compile() -> int:
    def kernel(arguments):  # pragma: no cover
        blocks, bits = arguments[_BLOCKS], arguments[_BITS]
        codes, out = integers(arguments[_CODES]), bytes_at(arguments[_OUT])
        high = bits - _NIBBLE
        high_bits = 0x0101010101010101 * ((1 << high) - 1)
        octet = (1 << (4 * high)) - 1
        first, end = share_of(arguments, arguments[NUM_ROWS])
        for block in range(first * blocks, end * blocks):
            # The block's number among those of a row, and the first of its 16 rows.
            row, column = block // blocks * LANES, block % blocks
            into = block * bits * LANES
            for lane in range(LANES):
                start = ((row + lane) * blocks + column) * _EIGHTS
                above = 0
                for i in range(_EIGHTS):
                    eight = codes[start + i]
                    low = eight & _LOW_NIBBLES
                    # Octets 0, 1, 4 and 5 now have two inputs each: even, odd, even, odd.
                    low |= low >> 12
                    word = low & 0xFF | low >> 24 & 0xFF00 | low << 8 & 0xFF0000 | low >> 16 & 0xFF000000
                    out[into + i * LANES + lane] = np.int32(word)
                    if high > 0:
                        rest = eight >> _NIBBLE & high_bits
                        rest |= rest >> (16 - high)
                        rest |= rest >> (32 - 2 * high)
                        # Of 8 inputs the four even ones in octet 0, the odd ones in octet 1.
                        place = 4 * high * i % 16
                        above |= (rest & octet | (rest >> 8 & octet) << 16) << place
                        if place + 4 * high == 16:
                            out[into + (4 + high * i // 4) * LANES + lane] = np.int32(above)
                            above = 0

    return compile_kernel(kernel)


def packed_words(codes: Tensor, bits: int) -> Tensor:
    """`codes` uint8 `[N, K]` below `2 ** bits`, N a multiple of 16 and K of 32, as `block_layout.packed_codes` says.

    int32 `[N / 16, K / 32, bits, 16]`; `bits` is 4, 5 or 6.
    """
    codes = codes.contiguous()
    groups, blocks = codes.shape[0] // LANES, codes.shape[1] // BLOCK
    out = torch.empty(groups, blocks, bits, LANES, dtype=torch.int32)
    call = Call(_compile(), _NUM_ARGUMENTS)
    call.set(0, *team_functions(), groups, 0, 0, 0, codes.data_ptr(), out.data_ptr(), blocks, bits)
    call.run(parallel=codes.numel() >= _MIN_PARALLEL)
    return out
