"""Several linear layers over one input, joined into one: query, key and value projections, for instance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from handler.linears.cuda.fp8_linear import Fp8Linear
from handler.linears.cuda.int4_linear import Int4Linear
from handler.linears.kernel_linear import KernelLinear
from handler.linears.linear import is_plain
from handler.linears.packed_linear import PACKED_TOGETHER, PackedLinear


def join(linears: Sequence[nn.Module]) -> nn.Linear | PackedLinear | KernelLinear | Int4Linear | Fp8Linear | None:
    """One layer with the outputs of all `linears`, in order; None if they cannot be joined.

    All must take the same input and be plain nn.Linear, or packed layers of one class and equal bits. The parts become
    views of the whole: both can be used, and memory is not doubled.
    """
    if all(is_plain(one) for one in linears):
        return _join_plain([one for one in linears if isinstance(one, nn.Linear)])
    if isinstance(linears[0], Int4Linear | Fp8Linear):
        return _join_on_gpu(linears)
    by_torch = [one for one in linears if isinstance(one, PackedLinear)]
    by_kernel = [one for one in linears if isinstance(one, KernelLinear) and one.packed is not None]
    packed = by_torch or by_kernel
    if len(packed) != len(linears) or any(one.out_features % PACKED_TOGETHER for one in packed):
        return None
    if len({(one.bits, one.in_features) for one in packed}) != 1 or len({one.dense is None for one in by_torch}) > 1:
        return None
    held = [one.packed for one in by_kernel if one.packed is not None]
    if held and not all(held[0].joins(one) for one in held):
        return None
    sizes = [one.out_features for one in packed]
    like = by_torch[0].scales_and_zeros if by_torch else torch.empty(0, dtype=torch.bfloat16)
    bias = _join_bias([one.bias for one in packed], sizes, like)
    return PackedLinear.join(by_torch, bias) if by_torch else KernelLinear.join(by_kernel, bias)


def _join_on_gpu(linears: Sequence[nn.Module]) -> Int4Linear | Fp8Linear | None:
    blocks = [one for one in linears if isinstance(one, Int4Linear)]
    fp8 = [one for one in linears if isinstance(one, Fp8Linear)]
    parts: list[Int4Linear] | list[Fp8Linear] = blocks or fp8
    forms = {(one.bits, one.in_features, one.group, one.packed.device) for one in blocks}
    forms |= {(8, one.in_features, 0, one.codes.device) for one in fp8}
    if len(forms) != 1 or len(parts) != len(linears):
        return None
    biases = [one.bias for one in parts]
    like = torch.empty(0, dtype=torch.bfloat16, device=next(iter(forms))[-1])
    bias = _join_bias(biases, [one.out_features for one in parts], like)
    return Int4Linear.join(blocks, bias) if blocks else Fp8Linear.join(fp8, bias)


def _join_plain(parts: list[nn.Linear]) -> nn.Linear | None:
    if len({(one.in_features, one.weight.dtype, one.weight.device) for one in parts}) != 1:
        return None
    weight = torch.cat([one.weight.detach() for one in parts])
    sizes = [one.out_features for one in parts]
    bias = _join_bias([one.bias for one in parts], sizes, weight)
    with torch.device("meta"):
        whole = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    whole.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        whole.bias = nn.Parameter(bias, requires_grad=False)
    for part, view in zip(parts, weight.split(sizes), strict=True):
        part.weight = nn.Parameter(view, requires_grad=False)
    return whole


def _join_bias(biases: Sequence[Tensor | None], sizes: list[int], like: Tensor) -> Tensor | None:
    """The biases of layers of `sizes` outputs, joined; zeros, of the dtype of `like`, for a layer without."""
    if all(bias is None for bias in biases):
        return None
    parts = [like.new_zeros(size) if bias is None else bias.detach() for bias, size in zip(biases, sizes, strict=True)]
    return torch.cat(parts)
