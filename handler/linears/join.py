"""Several linear layers over one input as one, joined or side by side: query, key and value, for instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handler.linears.cuda.fp8_linear import Fp8Linear
from handler.linears.cuda.int4_linear import Int4Linear
from handler.linears.kernel_linear import KernelLinear
from handler.linears.linear import UnfusedLinear, is_plain
from handler.linears.ordered_linear import OrderedLinear
from handler.linears.packed_linear import PACKED_TOGETHER, PackedLinear


class SideBySide(UnfusedLinear):
    """`Linear` whose outputs are those of `layers`, in order, which cannot be joined: 4 bits beside 6, for instance."""

    def __init__(self, layers: Sequence[Any]) -> None:
        """Each of `layers` is a `Linear` with its own bias."""
        super().__init__()
        # In a tuple, so that they are no submodules, as in the other layers.
        self.layers = tuple(layers)
        self.in_features = layers[0].in_features
        self.out_features = sum(layer.out_features for layer in layers)
        self.bias: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The weights `[N, K]` in a new tensor."""
        return torch.cat([layer.weight for layer in self.layers])

    def forward(self, x: Tensor) -> Tensor:
        """`[..., K]` -> `[..., N]`."""
        return torch.cat([layer.forward(x) for layer in self.layers], -1)


def together(linears: Sequence[Any]) -> Any:
    """One layer with the outputs of all `linears`, in order: joined, or as few neighbours side by side as can be."""
    whole = join(linears)
    if whole is not None:
        return whole
    layers, joined = [linears[0]], [linears[0]]
    for linear in linears[1:]:
        joined.append(linear)
        wider = join(joined)
        if wider is None:
            layers.append(linear)
            joined = [linear]
        else:
            layers[-1] = wider
    return SideBySide(layers)


def join(
    linears: Sequence[nn.Module],
) -> nn.Linear | PackedLinear | KernelLinear | OrderedLinear | Int4Linear | Fp8Linear | None:
    """One layer with the outputs of all `linears`, in order; None if they cannot be joined.

    All must take the same input and be plain nn.Linear, or packed layers of one class and equal bits. The parts become
    views of the whole: both can be used, and memory is not doubled.
    """
    if all(is_plain(one) for one in linears):
        return _join_plain([one for one in linears if isinstance(one, nn.Linear)])
    ordered = [one for one in linears if isinstance(one, OrderedLinear)]
    if len(ordered) == len(linears):
        return _join_ordered(ordered)
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


def _join_ordered(parts: Sequence[OrderedLinear]) -> OrderedLinear | None:
    """Of equal order, as that of query, key and value is where inputs were ordered by their size."""
    if not all(torch.equal(parts[0].order, one.order) for one in parts[1:]):
        return None
    layers: list[Any] = [one.layer for one in parts]
    whole: Any = join(layers)
    return None if whole is None else OrderedLinear(whole, parts[0].order)


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
