"""`Int4Linear`: weights of 4 or 8 bits by torch's CUDA product for few rows, dequantised in the pass for many.

With few rows a GPU waits for weights, and fewer bytes take less time. torch's product reads and converts the weights
once for each 16 rows, so with many rows it is slower than to convert them once and multiply in bfloat16.
docs/decisions/0104.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.linears.cuda.int4_layout import GROUPS, TILE_OUTPUTS, WORD_INPUTS, pack_codes, prepare, unpack
from handler.linears.linear import UnfusedLinear
from handler.linears.packed_linear import as_nibbles
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import quantise

# Rows up to which torch's product is faster than to dequantise. On an A6000, 4,096 x 4,096: 0.04 ms at 16 rows, 0.06
# at 32, 0.25 at 128, 0.52 at 256; dequantised by torch's operations 0.27 at 16 to 128, 0.33 at 256
# (the HQQ benchmark of torchao). A constant, as which of the two runs decides the last bits of a result.
MAX_PACKED_ROWS = 128
# Weights that are quantised, or dequantised, at a time: bounds the memory this takes beside the weights.
_PIECE = 1 << 25
_LOADED_PIECE = 1 << 22
_MIN_CAPABILITY = (8, 0)


def multiplies_int4(device: torch.device, dtype: torch.dtype) -> bool:
    """True if torch has the product for activations of `dtype` on `device`: bfloat16, compute capability 8.0 or more.

    Below it (T4) the kernel is not in torch's binary (ATen/native/cuda/int4mm.cu).
    """
    usual = device.type == "cuda" and dtype is torch.bfloat16
    return usual and torch.cuda.get_device_capability(device) >= _MIN_CAPABILITY


def fits_int4(out_features: int, in_features: int) -> bool:
    """True if the product takes a weight of this shape."""
    return out_features > 0 and in_features > 0 and not (out_features % TILE_OUTPUTS or in_features % WORD_INPUTS)


class Int4Linear(UnfusedLinear):
    """`Linear` on CUDA; activations are bfloat16.

    Eight bits are two nibbles, `w = 16 * high + low`, in one product with `x` given twice, as in `PackedLinear`. Scales
    and zeros are rounded to bfloat16, which the product takes.
    """

    def __init__(self, bits: int, packed: Tensor, scales_and_zeros: Tensor, bias: Tensor | None) -> None:
        """`packed` as from `pack_codes`, of K inputs or, with 8 bits, 2K; `scales_and_zeros` bfloat16 `[G, N, 2]`.

        `bias` is `[N]` bfloat16.
        """
        super().__init__()
        self.bits = bits
        self.group = packed.shape[1] * packed.shape[3] * WORD_INPUTS // scales_and_zeros.shape[0]
        self.out_features = scales_and_zeros.shape[1]
        self.in_features = self.group * scales_and_zeros.shape[0] * 4 // bits
        # Plain attributes, no buffers, as in the other layers: nothing moves this one.
        self.packed = packed
        self.scales_and_zeros = scales_and_zeros
        self.bias = None if bias is None else bias.detach()
        prepare(packed.device)

    @classmethod
    def of_weight(cls, weight: Tensor, bits: int, bias: Tensor | None) -> Int4Linear:
        """Quantised as on CPU, in blocks of 32: the same codes, scales and minima. `weight` `[N, K]` on CUDA."""
        rows = max(TILE_OUTPUTS, _LOADED_PIECE // weight.shape[1] // TILE_OUTPUTS * TILE_OUTPUTS)
        pieces = [_packed(*as_nibbles(quantise(piece, bits))) for piece in weight.detach().split(rows)]
        packed, scales_and_zeros = (torch.cat([one[i] for one in pieces], i) for i in (0, 1))
        return cls(bits, packed, scales_and_zeros, bias)

    @classmethod
    def of_quantised(cls, weight: QuantisedWeight, bias: Tensor | None) -> Int4Linear:
        """Over integer codes `[N, K]` on CUDA, of at most 8 bits and in their own order.

        A group is any multiple of 32 inputs, also all of them.
        """
        size = next(each for each in GROUPS if weight.group % each == 0)
        bits = 4 if weight.bits <= 4 else 8
        rows = max(TILE_OUTPUTS, _LOADED_PIECE // weight.shape[1] // TILE_OUTPUTS * TILE_OUTPUTS)
        pieces = []
        for first in range(0, weight.shape[0], rows):
            part = weight.rows(slice(first, first + rows))
            scale = part.scale.repeat_interleave(weight.group // size, 1)
            minimum = -weight.zero * part.scale if part.minimum is None else part.minimum - weight.zero * part.scale
            minimum = minimum.repeat_interleave(weight.group // size, 1)
            pieces.append(_packed(*as_nibbles(QuantisedWeight(weight.bits, part.codes, scale, minimum))))
        packed, scales_and_zeros = (torch.cat([one[i] for one in pieces], i) for i in (0, 1))
        return cls(bits, packed, scales_and_zeros, bias)

    @classmethod
    def join(cls, parts: Sequence[Int4Linear], bias: Tensor | None) -> Int4Linear:
        """One layer with the outputs of all `parts`, of equal bits, inputs and groups. They share its memory."""
        packed = torch.cat([one.packed for one in parts])
        scales_and_zeros = torch.cat([one.scales_and_zeros for one in parts], 1)
        codes = packed.split([one.packed.shape[0] for one in parts])
        scales = scales_and_zeros.split([one.out_features for one in parts], 1)
        for part, own_codes, own_scales in zip(parts, codes, scales, strict=True):
            part.packed, part.scales_and_zeros = own_codes, own_scales
        return cls(parts[0].bits, packed, scales_and_zeros, bias)

    @property
    def weight(self) -> Tensor:
        """The weights `[N, K]` in bfloat16, computed: what the layer multiplies many rows by."""
        return torch.cat([self._dequantised(*piece) for piece in self._pieces()])

    def forward(self, x: Tensor) -> Tensor:
        """`[..., K]` -> `[..., N]`."""
        if x.numel() > MAX_PACKED_ROWS * self.in_features:
            products = [F.linear(x, self._dequantised(*piece)) for piece in self._pieces()]
            out = products[0] if len(products) == 1 else torch.cat(products, -1)
        else:
            rows = x.reshape(-1, self.in_features)
            out = int4_product(self.bits, rows, self.packed, self.group, self.scales_and_zeros)
            out = out.view(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out.add_(self.bias)

    def _pieces(self) -> list[tuple[Tensor, Tensor]]:
        """Packed weights, and scales and zeros, of as many outputs as are dequantised at a time."""
        tiles = max(1, _PIECE // (self.in_features * self.bits // 4 * TILE_OUTPUTS))
        return list(zip(self.packed.split(tiles), self.scales_and_zeros.split(tiles * TILE_OUTPUTS, 1), strict=True))

    def _dequantised(self, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
        weight = unpack(packed, scales_and_zeros)
        if self.bits == 4:
            return weight
        high, low = weight.split(self.in_features, 1)
        summed: Tensor = high + low
        return summed

    def extra_repr(self) -> str:
        """As nn.Linear prints itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


def int4_product(bits: int, rows: Tensor, packed: Tensor, group: int, scales_and_zeros: Tensor) -> Tensor:
    """`rows` `[T, K]` by the N outputs of `packed`, as an `Int4Linear` holds them; `[T, N]`."""
    given = rows.contiguous() if bits == 4 else torch.cat((rows, rows), -1)
    # Those of a part that was joined are a view of the whole, whose strides the kernel does not look at.
    out: Tensor = torch.ops.aten._weight_int4pack_mm(given, packed, group, scales_and_zeros.contiguous())
    return out


def int4_bytes(bits: int) -> float:
    """Bytes a weight in blocks of 32, scales and zeros included: each nibble has both, in bfloat16, for 32 weights."""
    return bits / 4 * (0.5 + 4 / WORD_INPUTS)


def _packed(codes: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    return pack_codes(codes), torch.stack([scale.T, zero.T], -1).to(torch.bfloat16).contiguous()
