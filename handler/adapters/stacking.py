"""Several additions to parts of one module, as one addition to the whole: A stacked, B by blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.adapters.adapter import BadAdapter, ExpertLowRank, LowRank
from handler.adapters.landing import Landing
from handler.adapters.model_shape import Size


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """An addition to the rows of `landing`: `down` `[r, K]`, `up` `[rows, r]`. `name` is for messages."""

    landing: Landing
    down: Tensor
    up: Tensor
    scaling: float
    name: str


def whole_product(size: Size, parts: Sequence[Part]) -> LowRank:
    """The parts as one addition `[N, K]`. Raises BadAdapter if two have the same rows."""
    if len(parts) == 1 and parts[0].landing.start is None:
        return LowRank(parts[0].down, parts[0].up, parts[0].scaling)
    down, up, scaling = _stacked(size, parts)
    return LowRank(down, up, scaling)


def whole_experts(size: Size, parts: Sequence[Part]) -> ExpertLowRank:
    """Each part is of one expert; an expert without any gets zeros. Raises BadAdapter if two have the same rows."""
    own = [[part for part in parts if part.landing.expert == number] for number in range(size.num_experts)]
    stacked = [_stacked(size, each) for each in own if each]
    scalings = {scaling for _, _, scaling in stacked}
    rank, common = max(len(down) for down, _, _ in stacked), scalings.pop() if len(scalings) == 1 else 1.0
    down = parts[0].down.new_zeros(size.num_experts, rank, size.num_inputs)
    up = parts[0].up.new_zeros(size.num_experts, size.num_outputs, rank)
    remaining = iter(stacked)
    for number, each in enumerate(own):
        if each:
            first, second, scaling = next(remaining)
            down[number, : len(first)] = first
            up[number, :, : len(first)] = second * (scaling / common)
    return ExpertLowRank(down, up, common)


def _stacked(size: Size, parts: Sequence[Part]) -> tuple[Tensor, Tensor, float]:
    """A, B and the factor of them all; factors that differ go into B."""
    _check_rows(parts)
    scalings = {part.scaling for part in parts}
    common = parts[0].scaling if len(scalings) == 1 else 1.0
    dtype = torch.float32 if len({part.up.dtype for part in parts}) > 1 or common == 1.0 else parts[0].up.dtype
    up = torch.zeros(size.num_outputs, sum(len(part.down) for part in parts), dtype=dtype)
    column = 0
    for part in parts:
        rank = len(part.down)
        rows = up[part.landing.start : part.landing.stop, column : column + rank]
        rows.copy_(part.up.to(dtype) * (part.scaling / common))
        column += rank
    return torch.cat([part.down.to(dtype) for part in parts]), up, common


def _check_rows(parts: Sequence[Part]) -> None:
    seen: dict[int | None, str] = {}
    for part in parts:
        if part.landing.start in seen:
            raise BadAdapter(f"{part.name} and {seen[part.landing.start]} are additions to the same weight")
        seen[part.landing.start] = part.name
