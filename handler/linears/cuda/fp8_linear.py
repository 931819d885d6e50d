"""`Fp8Linear`: weights and activations in 8-bit floats, multiplied by torch's scaled product on CUDA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.linears.linear import UnfusedLinear

# What the product takes (ATen/native/cuda/ScaledBlas.cpp, torch 2.13): GPUs with units for it, sizes of a multiple.
_MIN_CAPABILITY = (8, 9)
_MULTIPLE = 16
_LARGEST = float(torch.finfo(torch.float8_e4m3fn).max)
# Keeps the scale of a row of zeros above zero.
_LEAST_SCALE = 1e-12


def multiplies_fp8(device: torch.device, dtype: torch.dtype) -> bool:
    """True if torch has the product for activations of `dtype` on `device`: L4, L40S, Hopper and later."""
    usual = device.type == "cuda" and dtype is torch.bfloat16
    return usual and torch.cuda.get_device_capability(device) >= _MIN_CAPABILITY


def fits_fp8(out_features: int, in_features: int) -> bool:
    """True if torch's product takes a weight of this shape."""
    return out_features % _MULTIPLE == 0 and in_features % _MULTIPLE == 0


def is_e4m3(table: Tensor) -> bool:
    """True if `table` float32 `[256]` has the values of float8_e4m3fn; NaN and 0 stand for codes that are no number."""
    codes = torch.arange(256, dtype=torch.uint8, device=table.device)
    return table.numel() == 256 and torch.equal(
        table.nan_to_num(), codes.view(torch.float8_e4m3fn).float().nan_to_num()
    )


class Fp8Linear(UnfusedLinear):
    """`Linear`; activations are bfloat16. Each row of them is rounded with a scale of its own, so rows stay apart."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        """`weight` float8_e4m3fn `[N, K]`, `scale` of one number or `[N]` or `[N, 1]`, `bias` `[N]` bfloat16.

        N and K are multiples of 16; the weights are `weight * scale`.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # Plain attributes, no buffers, as in the other layers: nothing moves this one.
        self.codes = weight.detach().contiguous()
        self.scale = scale.detach().float().reshape(1, -1).expand(1, self.out_features).contiguous()
        self.bias = None if bias is None else bias.detach()

    @classmethod
    def join(cls, parts: Sequence[Fp8Linear], bias: Tensor | None) -> Fp8Linear:
        """One layer with the outputs of all `parts`, of equal inputs. They share its weights."""
        codes = torch.cat([one.codes for one in parts])
        for part, view in zip(parts, codes.split([one.out_features for one in parts]), strict=True):
            part.codes = view
        return cls(codes, torch.cat([one.scale for one in parts], 1), bias)

    @property
    def weight(self) -> Tensor:
        """The weights `[N, K]` in bfloat16, computed."""
        return (self.codes.float() * self.scale.view(-1, 1)).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., K]` -> `[..., N]`."""
        rows = x.reshape(-1, self.in_features)
        scale = torch.linalg.vector_norm(rows, float("inf"), -1, keepdim=True, dtype=torch.float32)
        scale = scale.mul_(1 / _LARGEST).clamp_min_(_LEAST_SCALE)
        out: Tensor = torch.ops.aten._scaled_mm(
            (rows / scale).to(torch.float8_e4m3fn),
            self.codes.t(),
            scale,
            self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
        )
        return out.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """As nn.Linear prints itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, float8_e4m3fn"
