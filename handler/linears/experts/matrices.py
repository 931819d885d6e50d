"""`ExpertMatrices`: one matrix for each expert of a layer, as linear layers; it stands where a parameter stood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handler.linears.linear import Linear


class ExpertMatrices(nn.Module):
    """Matrices `[E, N, K]`, one `Linear` without bias for each."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """`layers` have equal sizes."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        # transformers draws the weights of modules without this mark.
        for module in self.modules():
            module.__dict__["_is_hf_initialized"] = True

    def expert(self, index: int) -> Linear:
        """The layer of one expert."""
        found: Any = self.layers[index]
        layer: Linear = found
        return layer

    def dequantised(self, indices: Sequence[int]) -> Tensor:
        """The matrices of `indices`, `[len(indices), N, K]`, in the dtype of activations."""
        return torch.stack([self.expert(index).weight for index in indices])

    @property
    def num_experts(self) -> int:
        """E."""
        return len(self.layers)


class BatchedMatrices(ExpertMatrices):
    """On CUDA: products of several experts in a few kernels, without a wait for the host."""

    def every(self, rows: Tensor) -> Tensor:
        """Each expert on rows of its own `[E, T, K]`, or all on the same `[T, K]`; `[E, T, N]`."""
        raise NotImplementedError

    def chosen(self, rows: Tensor, experts: Tensor) -> Tensor:
        """Row i of `[S, K]` by the matrix of `experts[i]`, int64 `[S]`; `[S, N]`."""
        raise NotImplementedError


class DenseMatrices(BatchedMatrices):
    """Unquantised, beside the other matrix of these experts, which is quantised."""

    def __init__(self, weight: Tensor) -> None:
        """`weight` `[E, N, K]`."""
        super().__init__([_dense_linear(each) for each in weight])
        self._weight = weight

    def every(self, rows: Tensor) -> Tensor:
        """See `BatchedMatrices`."""
        return rows @ self._weight.transpose(1, 2)

    def chosen(self, rows: Tensor, experts: Tensor) -> Tensor:
        """See `BatchedMatrices`."""
        return torch.bmm(self._weight.index_select(0, experts), rows[..., None])[..., 0]


def _dense_linear(weight: Tensor) -> nn.Linear:
    num_outputs, num_inputs = weight.shape
    with torch.device("meta"):
        made = nn.Linear(num_inputs, num_outputs, bias=False)
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made
