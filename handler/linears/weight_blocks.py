"""Weights as blocks of 32 that share a scale and a minimum, as GGUF's Q4_0, Q4_1 and Q8_0 hold them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# Weights of one row that share a scale and a minimum; the block of GGUF's formats and a group of torch's kernel.
BLOCK = 32
# Rows quantised at a time, in elements: bounds the float32 copy made on the way.
_PIECE = 1 << 23


@dataclass(frozen=True, slots=True, eq=False)
class WeightBlocks:
    """A matrix `[N, K]` with `w = scale * code + minimum`.

    `codes` `[N, K]` uint8, below `2 ** bits`; `scale` and `minimum` `[N, K / 32]` float32. `bits` is 4 or 8.
    """

    bits: int
    codes: Tensor
    scale: Tensor
    minimum: Tensor

    def dequantise(self, dtype: torch.dtype) -> Tensor:
        """The weights `[N, K]`, computed in float32 and rounded once."""
        num_rows, num_columns = self.codes.shape
        weights = self.codes.view(num_rows, -1, BLOCK) * self.scale[..., None] + self.minimum[..., None]
        return weights.view(num_rows, num_columns).to(dtype)


def quantise(weight: Tensor, bits: int) -> WeightBlocks:
    """Blocks for `weight` `[N, K]`, K a multiple of 32, each weight rounded to the nearest level.

    4 bits: levels from the block's least to its greatest weight (as GGUF's Q4_1). 8 bits: 255 levels, symmetric
    about zero (as Q8_0).
    """
    rows = max(1, _PIECE // weight.shape[1])
    pieces = [_quantise_piece(piece, bits) for piece in weight.detach().split(rows)]
    codes, scale, minimum = (torch.cat(part) for part in zip(*pieces, strict=True))
    return WeightBlocks(bits, codes, scale, minimum)


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


def save_blocks(blocks: dict[str, WeightBlocks], path: Path) -> None:
    """Write blocks by name. Scales and minima as float16, which is what GGUF has; those that do not fit are an error.

    Raises ValueError if float16 changes a number.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, one in blocks.items():
        # Four bits: columns 2i and 2i + 1 share a byte, the first in its lower half.
        codes = one.codes if one.bits == 8 else one.codes[:, ::2] | (one.codes[:, 1::2] << 4)
        tensors[f"{name}.{one.bits}"] = codes.contiguous()
        for part, values in (("scale", one.scale), ("minimum", one.minimum)):
            half = values.half()
            if not torch.equal(half.float(), values):
                raise ValueError(f"{name}: float16 does not hold every {part}")
            tensors[f"{name}.{part}"] = half.contiguous()
    save_file(tensors, path)


def load_blocks(path: Path) -> Iterator[tuple[str, WeightBlocks]]:
    """What `save_blocks` wrote, one matrix after the other."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 - safe_open is no dict
            name, _, kind = key.rpartition(".")
            if kind not in {"4", "8"}:
                continue
            codes = file.get_tensor(key)
            if kind == "4":
                codes = torch.stack((codes & 15, codes >> 4), -1).flatten(1)
            scale, minimum = (file.get_tensor(f"{name}.{part}").float() for part in ("scale", "minimum"))
            yield name, WeightBlocks(int(kind), codes, scale, minimum)
