"""Products in which a row's result does not depend on how many rows there are, where torch has such ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.linears.choice import can_prepack
from handler.linears.onednn_linear import OneDnnLinear


class FixedProduct:
    """`x W^T` for a weight `[N, K]` that stays; `x` `[T, K]` of any dtype is computed in the weight's."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._layer = OneDnnLinear(weight) if can_prepack(weight.device, weight.dtype) else None

    def __call__(self, x: Tensor) -> Tensor:
        """`[T, N]` of the weight's dtype."""
        x = x.to(self.weight.dtype).contiguous()
        return F.linear(x, self.weight) if self._layer is None else self._layer(x)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x W^T` for a weight `[N, K]` of the dtype of `x` `[T, K]` that is used once."""
    if not can_prepack(weight.device, weight.dtype):
        return F.linear(x, weight)
    rows = x.repeat(2, 1) if len(x) == 1 else x.contiguous()
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight.contiguous(), None, "none", [], "")
    return out[: len(x)]
