"""Which linear layer multiplies by dense weights on this processor, and a model's linears replaced by it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handler.linears.matrix_linear import MatrixLinear, has_shape
from handler.linears.onednn_linear import DenseLinear


def laid_out(weight: Tensor, bias: Tensor | None = None) -> DenseLinear:
    """The quickest layer for `weight` `[N, K]`, which it copies, and `bias` `[N]`."""
    return MatrixLinear(weight, bias) if has_shape(weight) else DenseLinear(weight, bias)


def can_lay_out(device: torch.device, dtype: torch.dtype) -> bool:
    """True if `DenseLinear` runs here: torch is built with oneDNN, and the processor multiplies `dtype` natively."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def lay_out_linears(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Replace every plain `nn.Linear` inside `model`, one by one, so that only one weight exists twice at a time.

    Returns the places, as parent and name, for `restore_linears`.
    """
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    for parent, name in places:
        linear = getattr(parent, name)
        setattr(parent, name, laid_out(linear.weight, linear.bias))
    return places


def restore_linears(places: list[tuple[nn.Module, str]]) -> None:
    """Put plain linears with the same weights back where `lay_out_linears` took them from."""
    for parent, name in places:
        dense: DenseLinear = getattr(parent, name)
        linear = nn.Linear(dense.in_features, dense.out_features, dense.bias is not None, device="meta")
        linear.weight = nn.Parameter(dense.weight, requires_grad=False)
        if dense.bias is not None:
            linear.bias = nn.Parameter(dense.bias, requires_grad=False)
        setattr(parent, name, linear.eval())
