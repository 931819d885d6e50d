"""Prepacked layout of weights for the matrix unit: tiles of 16 outputs by 32 inputs, an output's inputs contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

from handler.kernels.product.block_form import BLOCK
from handler.kernels.tiles import TILE_ROWS

# A 64-bit integer holds 4-bit codes of four outputs, four inputs each.
_FOUR = 4


def tiled_codes(codes: Tensor, bits: int) -> Tensor:
    """`codes` uint8 `[N, K]` as uint8 `[N / 16, K / 32, 16, 32]` (8 bits) or int64 `[N / 16, K / 32, 4, 8]` (4 bits).

    Integer `[.., v, q]` has input 4q + i of output 4v + j in bits 16j + 4i to 16j + 4i + 3: one instruction each
    extracts four outputs from one register.
    """
    num_outputs, num_inputs = codes.shape
    groups, blocks = num_outputs // TILE_ROWS, num_inputs // BLOCK
    if bits == 8:
        return codes.view(groups, TILE_ROWS, blocks, BLOCK).transpose(1, 2).contiguous()
    parts = codes.view(groups, _FOUR, _FOUR, blocks, BLOCK // _FOUR, _FOUR)
    found = torch.zeros(groups, blocks, _FOUR, BLOCK // _FOUR, dtype=torch.int64)
    for j in range(_FOUR):
        for i in range(_FOUR):
            found |= parts[:, :, j, :, :, i].transpose(1, 2).long() << (16 * j + 4 * i)
    return found


def are_tiles(codes: Tensor) -> bool:
    """True if `codes` are from `tiled_codes`, False if from `packed_codes`."""
    return codes.dtype is torch.int64 or (codes.dtype is torch.uint8 and codes.dim() == 4)


def tiled_weights(weight: Tensor) -> Tensor:
    """`weight` bfloat16 `[N, K]` as tiles `[N / 16, K / 32, 16, 32]`, a copy."""
    num_outputs, num_inputs = weight.shape
    parts = weight.view(num_outputs // TILE_ROWS, TILE_ROWS, num_inputs // BLOCK, BLOCK)
    return parts.transpose(1, 2).contiguous()


def untiled(tiles: Tensor) -> Tensor:
    """The inverse of `tiled_weights`."""
    groups, blocks = tiles.shape[:2]
    return tiles.transpose(1, 2).reshape(groups * TILE_ROWS, blocks * BLOCK)
