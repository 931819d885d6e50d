"""Codes of 1 to 8 bits: out of the words that hold them, and the numbers that they stand for.

Source: compressed-tensors 0.20.1 (`pack_to_int32`, `pack_fp4_to_uint8`, `pack_fp6_to_uint8`) and 0.17.0, which leaves
the last bits of a word unused where 32 is no multiple of the bits.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from handler.formats.floats.codes import e2m1_values, float8_values
from handler.formats.integer_codes import unpack as unpack_stream


def unpack(packed: Tensor, bits: int, count: int, *, is_dense: bool = True) -> Tensor:
    """Codes uint8 `[rows, count]` of words `[rows, words]`, int32 or uint8, the lowest bits first.

    Words of int32 that are not dense hold `32 // bits` codes each. Raises ValueError for too few or too many words.
    """
    word = packed.element_size() * 8
    dense, whole = -(-count * bits // word), -(-count // (word // bits))
    if packed.ndim != 2 or packed.shape[1] not in (dense, whole if word == 32 else dense):
        raise ValueError(f"{list(packed.shape)} words do not hold {count} codes of {bits} bits a row")
    is_dense = packed.shape[1] != whole or (is_dense and packed.shape[1] == dense)
    if not is_dense and word % bits:
        return _of_whole_words(packed, bits)[:, :count].contiguous()
    return unpack_stream(packed, bits, count).contiguous()


def _of_whole_words(words: Tensor, bits: int) -> Tensor:
    """Codes of int32 `[rows, words]`, `32 // bits` in each."""
    pieces = [(words >> (i * bits) & ((1 << bits) - 1)).to(torch.uint8) for i in range(32 // bits)]
    return torch.stack(pieces, -1).view(words.shape[0], -1)


@functools.cache
def float_table(bits: int) -> Tensor:
    """Value of each code, float32 `[2 ** bits]`: e2m1 for 4 bits, e2m3 for 6, e4m3 for 8."""
    if bits == 8:
        return float8_values(torch.float8_e4m3fn)[0]
    if bits == 4:
        return e2m1_values()
    steps = 1 << (bits - 3)
    codes = torch.arange(4 * steps)
    exponents, fractions = codes // steps, codes % steps
    values = torch.where(exponents > 0, (1 + fractions / steps) * 2.0 ** (exponents - 1), fractions / steps)
    return torch.cat((values, -values))
