"""Where torch's CUDA product keeps a 4-bit weight: packed for the tensor cores, and read back by table.

`_convert_weight_to_int4pack` (ATen/native/cuda/int4mm.cu, torch 2.13) tiles a matrix `[N, K]` for `m16n8k16`: int32
`[N / 8, K / (16 I), 32, I / 2]`, where I, `innerKTiles`, is 2, 4 or 8. Lane `4 r + t` holds output `r` of its 8. Its
word for 32 inputs has input `8 v + 2 t + p` in bits `16 p + 4 v` to `16 p + 4 v + 3`.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# Outputs, and inputs of a word's four lanes, that lie together.
TILE_OUTPUTS, WORD_INPUTS = 8, 32
# Group sizes of the product.
GROUPS = (256, 128, 64, 32)
_TILE_INPUTS = 16
_HALF_WORDS = 1 << 16


def pack_codes(codes: Tensor) -> Tensor:
    """`codes` uint8 below 16, `[N, K]` on CUDA, N a multiple of 8 and K of 32, as the product takes them."""
    inner = next(tiles for tiles in (8, 4, 2) if codes.shape[1] % (tiles * _TILE_INPUTS) == 0)
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack((codes[:, ::2] << 4) | codes[:, 1::2], inner)
    return packed


def unpack(packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """The weights that the product multiplies by, bfloat16 `[N, K]`: `(code - 8) * scale + zero`, rounded once.

    `packed` as from `pack_codes`, `scales_and_zeros` `[K / group, N, 2]`. Three kernels, no wait for the host; takes
    3 bytes a weight for itself.
    """
    tiles, super_tiles, _, words = packed.shape
    groups = scales_and_zeros.shape[0]
    # A group is part of a super tile, or several of them. Of each, how many words share a scale.
    shared = super_tiles * words // groups
    outer, inner = max(1, shared // words), min(shared, words)
    index = packed.view(torch.int16) + _offset(packed.device)
    codes = _table(packed.device).index_select(0, index.view(-1)).view(torch.bfloat16)
    shape = (tiles, super_tiles // outer, outer, TILE_OUTPUTS, 4, words // inner, inner, 2, 4)
    parts = scales_and_zeros.view(super_tiles // outer, words // inner, tiles, TILE_OUTPUTS, 2)
    scale, zero = (part.permute(2, 3, 0, 1)[:, :, :, None, :, None, None, None, None] for part in parts.unbind(-1))
    weight = packed.new_empty(tiles * TILE_OUTPUTS, super_tiles * words * WORD_INPUTS, dtype=torch.bfloat16)
    into = weight.view(tiles, TILE_OUTPUTS, super_tiles // outer, outer, words // inner, inner, 4, 4, 2)
    torch.addcmul(zero, codes.view(shape).permute(0, 3, 1, 2, 5, 6, 8, 4, 7), scale, out=into)
    return weight


@functools.cache
def _table(device: torch.device) -> Tensor:
    """The four weights, `code - 8` in bfloat16, of each half word, as one int64; indexed by its value plus 32,768."""
    halves = torch.arange(_HALF_WORDS, dtype=torch.int32) ^ (_HALF_WORDS >> 1)
    codes = (halves[:, None] >> torch.tensor([0, 4, 8, 12], dtype=torch.int32)) & 15
    return (codes - 8).to(torch.bfloat16).view(torch.int64).view(-1).to(device)


@functools.cache
def _offset(device: torch.device) -> Tensor:
    """A tensor of one number: added to int16 it makes int32, as a bare number would not."""
    return torch.tensor([_HALF_WORDS >> 1], dtype=torch.int32).to(device)


def prepare(device: torch.device) -> None:
    """Put the tables of `unpack` on `device`: no graph may be captured while they are made."""
    _table(device)
    _offset(device)
