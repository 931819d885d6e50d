"""`SideBySide`: layers over one input that cannot be joined, such as a query in 4 bits beside a value in 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handler.linears.join import join
from handler.linears.linear import UnfusedLinear


class SideBySide(UnfusedLinear):
    """`Linear` whose outputs are those of `layers`, in order."""

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
