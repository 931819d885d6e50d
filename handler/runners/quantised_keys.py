"""Keys and values in 8 bits: codes, and a float32 scale for each token and head (decision 0121).

The unit of a head is its largest magnitude over the code's largest number, so a token's codes depend on nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The largest number of each kind of code.
_LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def quantise(heads: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`[..., D]` -> codes `[..., D]` of `dtype` and float32 scales `[...]`; not finite where a number is not."""
    numbers = heads.float()
    scales = numbers.abs().amax(-1) / _LARGEST[dtype]
    units = numbers / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    units = units.clamp(-_LARGEST[dtype], _LARGEST[dtype])
    return (units.round() if dtype is torch.int8 else units).to(dtype), scales


def dequantise(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Codes `[..., D]` and scales `[...]` -> numbers of `dtype`."""
    return (codes.float() * scales[..., None]).to(dtype)


def plain(part: Tensor) -> Tensor:
    """Codes as whole numbers, over the same memory: torch copies no 8-bit floats by index. Others as they are."""
    return part.view(torch.int8) if part.element_size() == 1 else part
