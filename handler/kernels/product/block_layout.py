"""Prepacked layout of weights of 4 and 8 bits for the vector kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from handler.kernels.product.block_tile import BLOCK
from handler.kernels.vectors import LANES


def packed_codes(codes: Tensor, bits: int) -> Tensor:
    """`codes` uint8 `[N, K]` for `block_tile`: int32 `[N / 16, K / 32, 4, 16]`, or uint8 `[.., .., 16, 16, 2]`."""
    num_rows, num_columns = codes.shape
    if bits == 8:
        pairs = codes.view(num_rows // LANES, LANES, num_columns // BLOCK, BLOCK // 2, 2)
        return pairs.permute(0, 2, 3, 1, 4).contiguous()
    eights = codes.view(num_rows // LANES, LANES, num_columns // BLOCK, 4, 4, 2).int()
    shifts = 4 * torch.arange(4)[:, None] + 16 * torch.arange(2)
    return (eights << shifts).sum((-1, -2), dtype=torch.int32).permute(0, 2, 3, 1).contiguous()


def packed_scales(scale: Tensor, minimum: Tensor) -> Tensor:
    """Scales and minima as float16 `[N / 16, K / 32, 2, 16]`."""
    both = torch.stack((scale, minimum), -1).half()
    return both.view(-1, LANES, *both.shape[1:]).permute(0, 2, 3, 1).contiguous()
