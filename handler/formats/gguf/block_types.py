"""How ggml's block types hold weights: bytes of a block -> codes, scales and minima.

Layouts: `block_*` in ggml-common.h, `dequantize_row_*` in ggml-quants.c. Products of a block's scale and a group's are
made in float32, as there. Of the types a file can name, Q8_1 is none of weights; IQ1, IQ2 and IQ3 hold points of
lattices, which are no codes in groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.linears.quantised_weight import Form

# Codes [n, weights], scales and minima [n, groups], of n blocks.
Parts = tuple[Tensor, Tensor, Tensor | None]

# kvalues_iq4nl, and kvalues_mxfp4: e2m1 doubled, with half the scale.
_IQ4 = torch.tensor([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=torch.float32)
_E2M1 = torch.tensor([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=torch.float32)
_SIGNS = torch.tensor([-1, 1], dtype=torch.float32)


@dataclass(frozen=True, slots=True, eq=False)
class BlockType:
    """`decode` takes the bytes of n blocks, uint8 `[n, num_bytes]`.

    `weights`, `group`, `bits`, `zero` and `table` are those of `QuantisedWeight`, for one block.
    """

    weights: int
    num_bytes: int
    group: int
    bits: int
    decode: Callable[[Tensor], Parts]
    zero: float = 0.0
    table: Tensor | None = None
    has_minimum: bool = False

    @property
    def form(self) -> Form:
        """That of weights of this type."""
        table = 0 if self.table is None else len(self.table)
        return Form(self.bits, self.group, self.zero, table, self.has_minimum)


def _half(raw: Tensor, first: int) -> Tensor:
    """The float16 at byte `first` of each block, float32 `[n, 1]`."""
    return raw[:, first : first + 2].contiguous().view(torch.float16).float()


def _spread(raw: Tensor, run: int, bits: int) -> Tensor:
    """Codes of `bits` bits: the lowest of `run` bytes come first, then the next of the same bytes, and so on."""
    runs = raw.reshape(len(raw), -1, run)
    mask = 2**bits - 1
    return torch.stack([(runs >> shift) & mask for shift in range(0, 8, bits)], 2).view(len(raw), -1)


def _bits(raw: Tensor) -> Tensor:
    """Single bits, the lowest of each byte first."""
    return torch.stack([(raw >> shift) & 1 for shift in range(8)], 2).view(len(raw), -1)


def _signed(raw: Tensor) -> Tensor:
    """int8 as codes with zero 128."""
    return raw ^ 128


def _q4_0(raw: Tensor) -> Parts:
    return _spread(raw[:, 2:], 16, 4), _half(raw, 0), None


def _q4_1(raw: Tensor) -> Parts:
    return _spread(raw[:, 4:], 16, 4), _half(raw, 0), _half(raw, 2)


def _q5_0(raw: Tensor) -> Parts:
    return _spread(raw[:, 6:], 16, 4) | (_bits(raw[:, 2:6]) << 4), _half(raw, 0), None


def _q5_1(raw: Tensor) -> Parts:
    return _spread(raw[:, 8:], 16, 4) | (_bits(raw[:, 4:8]) << 4), _half(raw, 0), _half(raw, 2)


def _q8_0(raw: Tensor) -> Parts:
    return _signed(raw[:, 2:]), _half(raw, 0), None


def _q8_k(raw: Tensor) -> Parts:
    """The sums behind the codes serve products only."""
    return _signed(raw[:, 4:260]), raw[:, :4].contiguous().view(torch.float32), None


def _q1_0(raw: Tensor) -> Parts:
    return _bits(raw[:, 2:]), _half(raw, 0), None


def _q2_k(raw: Tensor) -> Parts:
    scales = raw[:, :16]
    return _spread(raw[:, 16:80], 32, 2), _half(raw, 80) * (scales & 15), -_half(raw, 82) * (scales >> 4)


def _q3_k(raw: Tensor) -> Parts:
    codes = _spread(raw[:, 32:96], 32, 2) | (_spread(raw[:, :32], 32, 1) << 2)
    scales = _spread(raw[:, 96:104], 8, 4) | (_spread(raw[:, 104:108], 4, 2) << 4)
    return codes, _half(raw, 108) * (scales.float() - 32), None


def _q4_k(raw: Tensor) -> Parts:
    return _spread(raw[:, 16:], 32, 4), *_six_bit_scales(raw)


def _q5_k(raw: Tensor) -> Parts:
    return _spread(raw[:, 48:], 32, 4) | (_spread(raw[:, 16:48], 32, 1) << 4), *_six_bit_scales(raw)


def _six_bit_scales(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima of Q4_K and Q5_K: eight each, in the twelve bytes behind the block's own two."""
    first, second, last = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scales = torch.cat([first & 63, (last & 15) | ((first >> 2) & 48)], 1)
    minima = torch.cat([second & 63, (last >> 4) | ((second >> 2) & 48)], 1)
    return _half(raw, 0) * scales, -_half(raw, 2) * minima


def _q6_k(raw: Tensor) -> Parts:
    codes = _spread(raw[:, :128], 64, 4) | (_spread(raw[:, 128:192], 32, 2) << 4)
    return codes, _half(raw, 208) * raw[:, 192:208].contiguous().view(torch.int8), None


def _iq4_xs(raw: Tensor) -> Parts:
    # Two high bits of each scale lie in two bytes, the first group's lowest.
    high = torch.stack([(raw[:, 2:4] >> shift) & 3 for shift in range(0, 8, 2)], 2).view(len(raw), -1)
    low = torch.stack([raw[:, 4:8] & 15, raw[:, 4:8] >> 4], 2).view(len(raw), -1)
    return _spread(raw[:, 8:], 16, 4), _half(raw, 0) * ((low | (high << 4)).float() - 32), None


def _mxfp4(raw: Tensor) -> Parts:
    """Half of a power of two: the exponents 0 and 1 make subnormal numbers."""
    exponent = raw[:, :1].int()
    bits = torch.where(exponent < 2, 0x00200000 << exponent.clamp(max=1), (exponent - 1) << 23)
    return _spread(raw[:, 1:], 16, 4), bits.view(torch.float32), None


def _tq2_0(raw: Tensor) -> Parts:
    return _spread(raw[:, :64], 32, 2), _half(raw, 64), None


BLOCK_TYPES = {
    "Q1_0": BlockType(128, 18, 128, 1, _q1_0, table=_SIGNS),
    "Q4_0": BlockType(32, 18, 32, 4, _q4_0, zero=8),
    "Q4_1": BlockType(32, 20, 32, 4, _q4_1, has_minimum=True),
    "Q5_0": BlockType(32, 22, 32, 5, _q5_0, zero=16),
    "Q5_1": BlockType(32, 24, 32, 5, _q5_1, has_minimum=True),
    "Q8_0": BlockType(32, 34, 32, 8, _q8_0, zero=128),
    "Q2_K": BlockType(256, 84, 16, 2, _q2_k, has_minimum=True),
    "Q3_K": BlockType(256, 110, 16, 3, _q3_k, zero=4),
    "Q4_K": BlockType(256, 144, 32, 4, _q4_k, has_minimum=True),
    "Q5_K": BlockType(256, 176, 32, 5, _q5_k, has_minimum=True),
    "Q6_K": BlockType(256, 210, 16, 6, _q6_k, zero=32),
    "Q8_K": BlockType(256, 292, 256, 8, _q8_k, zero=128),
    "IQ4_NL": BlockType(32, 18, 32, 4, _q4_0, table=_IQ4),
    "IQ4_XS": BlockType(256, 136, 32, 4, _iq4_xs, table=_IQ4),
    "MXFP4": BlockType(32, 17, 32, 4, _mxfp4, table=_E2M1),
    "TQ2_0": BlockType(256, 66, 256, 2, _tq2_0, zero=1),
}
