"""Linear layers whose weights are laid out once for the processor, by oneDNN.

`F.linear` lets oneDNN reorder a weight at every call. Done once, a call takes 0.4 to 0.6 of the time (AVX-512 with
bfloat16, 1 to 32 rows), and a row's result is the same whatever other rows are in the call. oneDNN also applies the
operation that follows, so that its operand is never written out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Rows the layout is chosen for. No other choice from 1 to 256 was found to be faster for any number of rows.
_TYPICAL_ROWS = 16


class DenseLinear(nn.Module):
    """`x W^T + b` on CPU, alone or with the operation that follows it. `x` `[..., K]` of the weight's dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` `[N, K]` float32 or bfloat16 on CPU, copied; `bias` `[N]`."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _TYPICAL_ROWS)
        self.bias = None if bias is None else bias.detach()

    @property
    def weight(self) -> Tensor:
        """The weight as it was, bit for bit, in a new tensor."""
        dense: Tensor = self.packed.to_dense()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        """`[..., N]`."""
        return self._alone(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        """`silu(x W^T + b)`."""
        return self._alone(x, "swish")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`(x W^T + b) * other`, `other` `[..., N]`."""
        return self._with(x, other, "mul")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`x W^T + b + other`, `other` `[..., N]`."""
        return self._with(x, other, "add")

    # The kernel for one row sums in another order than the one for several, and a row's numbers must not depend on
    # whether there are others: a lone row goes through twice. The time goes into reading the weights.

    def _alone(self, x: Tensor, operation: str) -> Tensor:
        if x.numel() == self.in_features:
            return self._alone(_twice(x), operation)[0].view(*x.shape[:-1], -1)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, operation, [], "")
        return out

    def _with(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        if x.numel() == self.in_features:
            return self._with(_twice(x), _twice(other), operation)[0].view(*x.shape[:-1], -1)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, self.bias, operation)
        return out


def _twice(row: Tensor) -> Tensor:
    return row.reshape(1, -1).repeat(2, 1)


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
        setattr(parent, name, DenseLinear(linear.weight, linear.bias))
    return places


def restore_linears(places: list[tuple[nn.Module, str]]) -> None:
    """Put plain linears with the same weights back where `lay_out_linears` took them from."""
    for parent, name in places:
        laid_out: DenseLinear = getattr(parent, name)
        linear = nn.Linear(laid_out.in_features, laid_out.out_features, laid_out.bias is not None, device="meta")
        linear.weight = nn.Parameter(laid_out.weight, requires_grad=False)
        if laid_out.bias is not None:
            linear.bias = nn.Parameter(laid_out.bias, requires_grad=False)
        setattr(parent, name, linear.eval())
