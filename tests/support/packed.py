"""A packed layer by torch's kernel, whatever this processor would choose."""

from __future__ import annotations

import torch
from torch import Tensor

from handler.linears.packed_linear import PackedLinear, pack_blocks
from handler.linears.quantised_weight import QuantisedWeight


def packed_by_torch(
    blocks: QuantisedWeight, bias: Tensor | None, dtype: torch.dtype, dense: Tensor | None = None
) -> PackedLinear:
    packed, scales_and_zeros = pack_blocks(blocks, dtype)
    return PackedLinear(blocks.bits, packed, scales_and_zeros, None if bias is None else bias.to(dtype), dense)
