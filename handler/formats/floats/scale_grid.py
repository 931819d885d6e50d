"""Scales that are stored for blocks of rows and columns, as one scale for each row and group of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from handler.seam.errors import BadModel


def spread(scale: Tensor, shape: Sequence[int], block: tuple[int, int], name: str) -> Tensor:
    """Scales `[..., N, K / group]` of weights `shape`, `[..., N, K]`; the group divides K and the block's columns.

    `scale` is one number, one for each of the leading dimensions (tensor, expert, row), or a grid `[..., n, k]` of
    blocks: of `block` rows and columns if it has as many, the last ones cut; else of equal ones. Raises BadModel.
    """
    grid = _grid(scale, shape)
    rows = None if grid is None else _block_of_row(shape[-2], grid.shape[-2], block[0])
    columns = None if grid is None else _block_size(shape[-1], grid.shape[-1], block[1])
    if grid is None or rows is None or columns is None:
        raise BadModel(
            f"the weight {name} of {_by(shape)} has scales of {_by(scale.shape)}, which fit neither its rows nor "
            f"blocks of {_by(block)}"
        )
    group = math.gcd(columns, shape[-1])
    starts = torch.arange(0, shape[-1], group)
    wide = grid.index_select(-1, starts // columns).index_select(-2, rows)
    return wide.expand(*shape[:-2], -1, -1).contiguous()


def _grid(scale: Tensor, shape: Sequence[int]) -> Tensor | None:
    """`scale` with as many dimensions as `shape`, the leading ones equal or 1."""
    if scale.numel() == 1:
        return scale.reshape([1] * len(shape))
    if scale.dim() == 2 * len(shape) and math.prod(scale.shape[1::2]) == 1:
        scale = scale.reshape(scale.shape[0::2])  # ModelOpt keeps a dimension of 1 behind each
    if scale.dim() < len(shape) and tuple(scale.shape) == tuple(shape[: scale.dim()]):
        return scale.reshape(*scale.shape, *[1] * (len(shape) - scale.dim()))
    fits = scale.dim() == len(shape) and tuple(scale.shape[:-2]) == tuple(shape[:-2])
    return scale if fits else None


def _block_size(total: int, count: int, block: int) -> int | None:
    """Size of `count` blocks that cover `total`: `block` if they are so many, else equal parts; None if neither."""
    if math.ceil(total / block) == count:
        return min(block, total)
    return total // count if count and total % count == 0 else None


def _block_of_row(total: int, count: int, block: int) -> Tensor | None:
    """Index of each row's block. Blocks of two matrices in one, gate and up, begin anew at the second."""
    half = total // 2
    if math.ceil(total / block) != count == 2 * math.ceil(half / block) and total % 2 == 0:
        first = torch.arange(half) // block
        return torch.cat([first, first + count // 2])
    size = _block_size(total, count, block)
    return None if size is None else torch.arange(total) // size


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes)) or "one number"
