"""Which layer multiplies by a quantised weight on its device, as it is stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from handler.linears.choice import quantised_layer
from handler.linears.cuda.fp8_linear import Fp8Linear, fits_fp8, is_e4m3, multiplies_fp8
from handler.linears.cuda.int4_linear import Int4Linear, fits_int4, multiplies_int4
from handler.linears.ordered_linear import OrderedLinear
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import quantise

_LEAST_GROUP = 32


def quantised_linear(
    weight: QuantisedWeight, bias: Tensor | None, dtype: torch.dtype, dense: Tensor | None = None
) -> nn.Module | None:
    """A `Linear` over `weight` `[N, K]` and `bias` `[N]` for activations of `dtype`; None if no kernel takes it.

    `dense` `[N, K]` of `dtype` is what the weight stands for, kept beside it where the layer has use for it.
    """
    if weight.codes.device.type == "cpu":
        return quantised_layer(weight, bias, dtype, dense)
    if weight.order is not None:
        layer: Any = quantised_linear(replace(weight, order=None), bias, dtype)
        return None if layer is None else OrderedLinear(layer, weight.order)
    if weight.table is not None and weight.table.numel() > 16:
        return _fp8(weight, bias, dtype)
    return _int4(weight, bias, dtype)


def linear_of_dense(weight: Tensor, bits: int, bias: Tensor | None, keep: Tensor | bool) -> nn.Module | None:
    """A `Linear` over `weight` `[N, K]` rounded to 4 or 8 bits, as `quantise` does; None if no kernel takes it.

    On CPU it keeps `keep` beside the packed weight where it has use for a dense one, or what it has rounded to if True.
    """
    if weight.device.type != "cpu":
        return Int4Linear.of_weight(weight, bits, bias)
    rounded = quantise(weight, bits)
    dense = keep if isinstance(keep, Tensor) else rounded.dequantise(weight.dtype) if keep else None
    return quantised_linear(rounded, bias, weight.dtype, dense)


def _fp8(weight: QuantisedWeight, bias: Tensor | None, dtype: torch.dtype) -> nn.Module | None:
    """For e4m3 with one scale for each output; the product knows no others before compute capability 9."""
    if weight.table is None or not is_e4m3(weight.table) or weight.scale.shape[-1] > 1:
        return None
    if not fits_fp8(*weight.shape) or not multiplies_fp8(weight.codes.device, dtype):
        return None
    return Fp8Linear(weight.codes.view(torch.float8_e4m3fn), weight.scale, bias)


def _int4(weight: QuantisedWeight, bias: Tensor | None, dtype: torch.dtype) -> nn.Module | None:
    if weight.group % _LEAST_GROUP or not fits_int4(*weight.shape) or not multiplies_int4(weight.codes.device, dtype):
        return None
    as_integers = _with_integer_codes(weight)
    return None if as_integers is None else Int4Linear.of_quantised(as_integers, bias)


def _with_integer_codes(weight: QuantisedWeight) -> QuantisedWeight | None:
    """The same weight without a table, whose values must be multiples of one number; None if they are not."""
    if weight.table is None:
        return weight
    step = float(weight.table.abs()[weight.table != 0].min())
    levels = weight.table / step
    lowest = float(levels.min())
    if not bool((levels == levels.round()).all()) or float(levels.max()) - lowest > 255:
        return None
    codes = (levels - lowest).to(torch.uint8)[weight.codes.int()]
    bits = int(levels.max() - lowest).bit_length()
    return replace(
        weight, bits=bits, codes=codes, scale=weight.scale * step, zero=weight.zero / step - lowest, table=None
    )
