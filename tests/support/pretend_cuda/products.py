"""Products that only a GPU has: their preconditions as torch 2.13's CUDA sources have them, their numbers on CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.support.pretend_cuda.varlen import _require as require


def _scaled_mm(
    capability: tuple[int, int],
    one: Tensor,
    two: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None = None,
    scale_result: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
) -> Tensor:
    """ATen/native/cuda/ScaledBlas.cpp: scales of a tensor, or of each row and column."""
    require(capability >= (8, 9), "torch._scaled_mm is only supported on CUDA devices with compute capability >= 8.9")
    require(one.dim() == two.dim() == 2, "mat1 and mat2 must be matrices")
    require(one.shape[1] == two.shape[0], "mat1 and mat2 shapes cannot be multiplied")
    require(one.dtype == two.dtype == torch.float8_e4m3fn, "Expected Float8 matrices")
    require(one.shape[1] % 16 == 0 and two.shape[1] % 16 == 0, "shapes must be divisible by 16")
    require(one.stride(1) == 1 and two.stride(0) == 1, "Only multiplication of row-major and column-major matrices")
    require(scale_a.dtype == scale_b.dtype == torch.float32, "Invalid scaling configuration: scales should be float")
    by_tensor = scale_a.numel() == scale_b.numel() == 1
    by_row = scale_a.shape == (one.shape[0], 1) and scale_b.shape == (1, two.shape[1])
    require(by_tensor or by_row, "Invalid scaling configuration: scales should be singletons, or of rows and columns")
    require(scale_a.is_contiguous() and scale_b.is_contiguous(), "Invalid scaling configuration: not contiguous")
    require(out_dtype in {torch.bfloat16, torch.float16, torch.float32}, "Only high precision output types")
    require(bias is None or (bias.dtype == out_dtype and bias.numel() == two.shape[1]), "Bias must be of the output")
    out = (one.float() @ two.float()) * scale_a * scale_b
    return (out if bias is None else out + bias.float()).to(out_dtype)


# By the operator's name; each takes the GPU's compute capability first.
PRODUCTS: dict[str, Callable[..., Any]] = {"aten::_scaled_mm": _scaled_mm}
