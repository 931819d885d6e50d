"""Packed layers in memory: by torch's kernel on any processor, and those of a whole model, as a load makes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handler.linears.linear import is_plain
from handler.linears.packed_linear import PackedLinear, fits, pack_blocks
from handler.linears.quantised_linear import linear_of_dense
from handler.linears.quantised_weight import QuantisedWeight
from handler.model.loading.layer_quantizer import OUTPUT_BITS


def packed_by_torch(
    blocks: QuantisedWeight, bias: Tensor | None, dtype: torch.dtype, dense: Tensor | None = None
) -> PackedLinear:
    packed, scales_and_zeros = pack_blocks(blocks, dtype)
    return PackedLinear(blocks.bits, packed, scales_and_zeros, None if bias is None else bias.to(dtype), dense)


def pack_linears(model: nn.Module, bits: int, *, keep_dense: bool = False) -> int:
    """Replace each plain linear that fits by one of `bits`, the output layer by one of 8; returns how many.

    With `keep_dense` a layer keeps what its weight stands for where it has use for it.
    """
    output = model.get_output_embeddings()
    count = 0
    for name, linear in list(model.named_modules()):
        if not (isinstance(linear, nn.Linear) and is_plain(linear) and fits(*linear.weight.shape)):
            continue
        bias = None if linear.bias is None else linear.bias.detach()
        wide = OUTPUT_BITS if linear is output else bits
        layer = linear_of_dense(linear.weight.detach(), wide, bias, keep_dense)
        assert layer is not None
        model.set_submodule(name, layer)
        count += 1
    return count
