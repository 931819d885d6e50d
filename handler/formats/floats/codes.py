"""Small floats as codes: weights of 8 and 4 bits with the table of their values, and scales of any type."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

# OCP MX 1.0, E2M1: the values of codes 0 to 7; bit 3 is the sign.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
# With fewer inputs a scale, float32 scales make a quantised weight larger than a dense one.
_LEAST_GROUP = 16


def float8_codes(weight: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Codes uint8 of float8 `weight`, shaped as it, and the values float32 `[256]` of all codes.

    Codes that are no number have the value 0 in the table. Raises BadModel for a weight of another type, or one that
    holds such a code.
    """
    if weight.dtype not in _FLOAT8:
        raise BadModel(f"the weight {name} is stored in {weight.dtype}, not in float8_e4m3fn or float8_e5m2")
    table, largest = float8_values(weight.dtype)
    codes = weight.contiguous().view(torch.uint8)
    if codes.numel() and int((codes & 0x7F).max()) > largest:
        raise BadModel(f"the weight {name} holds NaN or infinity")
    return codes, table


@functools.cache
def float8_values(dtype: torch.dtype) -> tuple[Tensor, int]:
    """The value of each code, 0 for what is no number, and the largest positive code that is one."""
    values = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    finite = values.isfinite()
    return values.masked_fill(~finite, 0.0), int(finite[:128].sum()) - 1


@functools.cache
def e2m1_values() -> Tensor:
    """The values float32 `[16]` of floats of 4 bits: a sign, two bits of exponent, one of mantissa."""
    positive = torch.tensor(_E2M1)
    return torch.cat([positive, -positive])


def scale_values(scale: Tensor, name: str) -> Tensor:
    """A scale in float32; a byte or a float8_e8m0fnu is an exponent, `2 ** (byte - 127)`. Raises BadModel for NaN."""
    values = as_float(scale)
    if not bool(values.isfinite().all()):
        raise BadModel(f"the scale {name} holds NaN or infinity")
    return values


def as_float(scale: Tensor) -> Tensor:
    """A scale in float32, bytes as exponents (e8m0), whatever they are."""
    return (scale.contiguous().view(torch.float8_e8m0fnu) if scale.dtype is torch.uint8 else scale).float()


def worth_keeping(weight: QuantisedWeight) -> QuantisedWeight | Tensor:
    """`weight`, or the dense weights in float32 where its groups are too small to save memory."""
    return weight if weight.group >= _LEAST_GROUP else weight.dequantise(torch.float32)
