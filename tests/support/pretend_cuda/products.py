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


def _convert_weight_to_int4pack(capability: tuple[int, int], codes: Tensor, inner: int) -> Tensor:
    """ATen/native/cuda/int4mm.cu, `matrix_to_m16n8k16_Bint4_layout`: `[N, K / 2]`, even inputs in high halves."""
    require(capability >= (8, 0), "CUDA error: invalid device function (_convert_weight_to_int4pack)")
    require(codes.dim() == 2 and codes.dtype == torch.uint8 and codes.is_contiguous(), "in.dtype() == at::kByte")
    require(inner in {2, 4, 8}, "innerKTiles == 2 || innerKTiles == 4 || innerKTiles == 8")
    rows, columns = codes.shape
    require(columns * 2 % (inner * 16) == 0, "isEvenDivisor(in.size(1) * 2, innerKTiles * kKTileSize)")
    tiles, super_tiles = -(-rows // 8), columns * 2 // (inner * 16)
    padded = torch.zeros(tiles * 8, columns, dtype=torch.int64)
    padded[:rows] = codes
    out = torch.zeros(tiles, super_tiles, 32, inner // 2, dtype=torch.int64)
    lane = torch.arange(32)
    for outer in range(super_tiles):
        for word in range(inner // 2):
            base = (outer * inner + 2 * word) * 8 + lane % 4
            for place, column in enumerate((base, base + 4, base + 8, base + 12)):
                read = padded.view(tiles, 8, columns)[:, lane // 4, column]
                out[:, outer, :, word] |= ((read >> 4) << (4 * place)) | ((read & 15) << (4 * place + 16))
    return (out - ((out >> 31) << 32)).to(torch.int32)


def _weight_int4pack_mm(
    capability: tuple[int, int], rows: Tensor, packed: Tensor, group: int, scales_and_zeros: Tensor
) -> Tensor:
    """ATen/native/cuda/int4mm.cu, `tinygemm_m16n8k16_chunk_kernel`; weights are rounded to bfloat16, sums are not."""
    require(capability >= (8, 0), "CUDA error: invalid device function (_weight_int4pack_mm)")
    require(rows.dtype == torch.bfloat16 and rows.is_contiguous() and rows.dim() == 2, "A.dtype() == at::kBFloat16")
    require(packed.dtype == torch.int32 and packed.is_contiguous() and packed.dim() == 4, "B.dtype() == at::kInt")
    inner, columns = packed.shape[3] * 2, rows.shape[1]
    require(inner in {2, 4, 8} and packed.shape[2] == 32, "B_innerKTiles == 2 || 4 || 8")
    require(packed.shape[1] * inner * 16 == columns, "B.size(1) == k / (B_innerKTiles * kKTileSize)")
    require(group in {32, 64, 128, 256} and columns % group == 0, "qGroupSize == 32 || 64 || 128 || 256")
    require(scales_and_zeros.shape[1:] == (packed.shape[0] * 8, 2), "qScaleAndZeros.size(1) == n")
    # The kernel does not check these; it reads memory as if they held.
    require(scales_and_zeros.dtype == torch.bfloat16, "an illegal memory access was encountered (scales' type)")
    require(scales_and_zeros.is_contiguous(), "an illegal memory access was encountered (scales' strides)")
    require(scales_and_zeros.shape[0] == columns // group, "an illegal memory access was encountered (groups)")
    codes = torch.zeros(packed.shape[0] * 8, columns)
    lane = torch.arange(32)
    for outer in range(packed.shape[1]):
        for word in range(inner // 2):
            for place in range(8):
                column = (outer * inner + 2 * word) * 16 + place % 4 * 8 + lane % 4 * 2 + place // 4
                nibbles = (packed[:, outer, :, word] >> (4 * place)) & 15
                codes.view(-1, 8, columns)[:, lane // 4, column] = nibbles.float() - 8
    scale, zero = (each.T.repeat_interleave(group, 1).float() for each in scales_and_zeros.unbind(-1))
    weight = (codes * scale + zero).to(torch.bfloat16)
    return (rows.float() @ weight.float().T).to(torch.bfloat16)


# By the operator's name; each takes the GPU's compute capability first.
PRODUCTS: dict[str, Callable[..., Any]] = {
    "aten::_scaled_mm": _scaled_mm,
    "aten::_convert_weight_to_int4pack": _convert_weight_to_int4pack,
    "aten::_weight_int4pack_mm": _weight_int4pack_mm,
}
