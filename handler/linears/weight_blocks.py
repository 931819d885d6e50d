"""Weights in blocks of 32 that share a scale and a minimum: made of dense ones, and of any group."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from handler.linears.quantised_weight import QuantisedWeight

# Weights of one row that share a scale and a minimum; the block of GGUF's formats and a group of torch's kernel.
BLOCK = 32
# Rows quantised at a time, in elements: bounds the float32 copy made on the way.
_PIECE = 1 << 23


def quantise(weight: Tensor, bits: int) -> QuantisedWeight:
    """Blocks for `weight` `[N, K]`, K a multiple of 32, each weight rounded to the nearest level.

    4 bits: levels from the block's least to its greatest weight (as GGUF's Q4_1). 8 bits: 255 levels, symmetric
    about zero (as Q8_0).
    """
    rows = max(1, _PIECE // weight.shape[1])
    pieces = [_quantise_piece(piece, bits) for piece in weight.detach().split(rows)]
    codes, scale, minimum = (torch.cat(part) for part in zip(*pieces, strict=True))
    return QuantisedWeight(bits, codes, scale, minimum)


def _quantise_piece(weight: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    blocks = weight.float().view(weight.shape[0], -1, BLOCK)
    if bits == 4:
        minimum = blocks.amin(-1)
        scale = (blocks.amax(-1) - minimum) / 15
    else:
        scale = blocks.abs().amax(-1) / 127
        minimum = -128 * scale
    levels = (blocks - minimum[..., None]) / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None]
    codes = levels.round_().clamp_(0, 2**bits - 1).to(torch.uint8)
    return codes.view(weight.shape), scale, minimum


def in_blocks(weight: QuantisedWeight) -> QuantisedWeight | None:
    """The same numbers in groups of 32 with a minimum; None for a table, `order`, and groups of no multiple of 32."""
    if weight.table is not None or weight.order is not None or weight.group % BLOCK:
        return None
    minimum = -weight.zero * weight.scale if weight.zero else torch.zeros_like(weight.scale)
    if weight.minimum is not None:
        minimum = weight.minimum + minimum if weight.zero else weight.minimum
    times = weight.group // BLOCK
    scale, minimum = (each if times == 1 else each.repeat_interleave(times, -1) for each in (weight.scale, minimum))
    return replace(weight, scale=scale, minimum=minimum, zero=0.0)
