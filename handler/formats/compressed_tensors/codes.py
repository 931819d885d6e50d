"""Codes of 1 to 8 bits: out of the words that hold them, and the numbers that they stand for.

Source: compressed-tensors 0.20.1 (`pack_to_int32`, `pack_fp4_to_uint8`, `pack_fp6_to_uint8`) and 0.17.0, which leaves
the last bits of a word unused where 32 is no multiple of the bits.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# So many codes of any width fill whole bytes.
_PERIOD = 8


def unpack(packed: Tensor, bits: int, count: int, *, is_dense: bool = True) -> Tensor:
    """Codes uint8 `[rows, count]` of words `[rows, words]`, int32 or uint8, the lowest bits first.

    Words of int32 that are not dense hold `32 // bits` codes each. Raises ValueError for too few or too many words.
    """
    word = packed.element_size() * 8
    dense, whole = -(-count * bits // word), -(-count // (word // bits))
    if packed.ndim != 2 or packed.shape[1] not in (dense, whole if word == 32 else dense):
        raise ValueError(f"{list(packed.shape)} words do not hold {count} codes of {bits} bits a row")
    is_dense = packed.shape[1] != whole or (is_dense and packed.shape[1] == dense)
    if not is_dense:
        return _of_whole_words(packed, bits)[:, :count].contiguous()
    stream = packed.reshape(-1).view(torch.uint8).view(packed.shape[0], -1)
    return _of_stream(stream, bits)[:, :count].contiguous()


def _of_stream(stream: Tensor, bits: int) -> Tensor:
    """Codes of bytes `[rows, bytes]`, without a gap between them."""
    num_rows, num_bytes = stream.shape
    mask = (1 << bits) - 1
    if 8 % bits == 0:
        return torch.stack([stream >> shift & mask for shift in range(0, 8, bits)], -1).view(num_rows, -1)
    if num_bytes % bits:
        stream = torch.nn.functional.pad(stream, (0, bits - num_bytes % bits))
    groups = stream.view(num_rows, -1, bits)
    codes = torch.empty(num_rows, groups.shape[1], _PERIOD, dtype=torch.uint8)
    for i in range(_PERIOD):
        first, shift = divmod(i * bits, 8)
        code = groups[..., first] >> shift
        if shift + bits > 8:
            code |= groups[..., first + 1] << (8 - shift)
        codes[..., i] = code & mask
    return codes.view(num_rows, -1)


def _of_whole_words(words: Tensor, bits: int) -> Tensor:
    """Codes of int32 `[rows, words]`, `32 // bits` in each."""
    pieces = [(words >> (i * bits) & ((1 << bits) - 1)).to(torch.uint8) for i in range(32 // bits)]
    return torch.stack(pieces, -1).view(words.shape[0], -1)


@functools.cache
def float_table(bits: int) -> Tensor:
    """Value of each code, float32 `[2 ** bits]`: e2m1 for 4 bits, e2m3 for 6, e4m3 for 8 (two codes are NaN)."""
    if bits == 8:
        return torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    steps = 1 << (bits - 3)
    codes = torch.arange(4 * steps)
    exponents, fractions = codes // steps, codes % steps
    values = torch.where(exponents > 0, (1 + fractions / steps) * 2.0 ** (exponents - 1), fractions / steps)
    return torch.cat((values, -values))
