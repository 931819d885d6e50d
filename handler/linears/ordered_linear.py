"""`OrderedLinear`: a layer whose weight has its inputs in another order (GPTQ's act-order, `desc_act`).

Groups share a scale in the order of the weight, so inputs are selected first. Layers of equal order are joined, as
query, key and value have where inputs were ordered by their size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handler.linears.linear import Linear


class OrderedLinear(nn.Module):
    """`Linear` whose input j is input `order[j]` of what it is given."""

    def __init__(self, layer: Linear, order: Tensor) -> None:
        """`layer`, a `Linear`, multiplies; `order` int64 `[K]`, a permutation."""
        super().__init__()
        self.out_features, self.in_features, self.bias = layer.out_features, layer.in_features, layer.bias
        self.layer, self.order = layer, order

    @property
    def weight(self) -> Tensor:
        """The weights `[N, K]` with inputs in the order that they are given in, computed."""
        weight = self.layer.weight
        return torch.empty_like(weight).index_copy_(1, self.order, weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., K]` -> `[..., N]`."""
        out: Tensor = self.layer.forward(self.selected(x))
        return out

    def silu(self, x: Tensor) -> Tensor:
        """`silu(y)`."""
        return self.layer.silu(self.selected(x))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`y * other`, `other` `[..., N]`."""
        return self.layer.times(self.selected(x), other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`y + other`, `other` `[..., N]`."""
        return self.layer.plus(self.selected(x), other)

    def selected(self, x: Tensor) -> Tensor:
        """`x` `[..., K]` with its numbers in the order in which `layer` takes them."""
        return x.index_select(-1, self.order)

    def extra_repr(self) -> str:
        """As nn.Linear prints itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, ordered"
