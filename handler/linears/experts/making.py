"""Experts' matrices of layers, on the device of these, and back to a parameter."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from handler.linears.choice import can_prepack, prepacked
from handler.linears.cuda.fp8_linear import Fp8Linear
from handler.linears.cuda.int4_experts import Int4Experts
from handler.linears.cuda.int4_linear import Int4Linear
from handler.linears.experts.matrices import DenseMatrices, ExpertMatrices
from handler.linears.experts.quantised_experts import matrix_names, ways

# Largest difference from transformers' code over the dequantised matrices, relative to the output.
_TOLERANCE = 0.05


def can_hold(layer: nn.Module) -> bool:
    """Whether `matrices_of` takes layers like this one."""
    return not isinstance(layer, Fp8Linear)


def matrices_of(layers: Sequence[nn.Module], *, share_rows: bool) -> ExpertMatrices:
    """`layers` without bias, one for each expert; `share_rows` for the first product, which is given tokens."""
    blocks = [each for each in layers if isinstance(each, Int4Linear)]
    return Int4Experts(blocks, share_rows=share_rows) if len(blocks) == len(layers) else ExpertMatrices(layers)


def hold(experts: Any, name: str, value: ExpertMatrices | nn.Parameter) -> None:
    """Let `value` be what `experts` has under `name`; a module does not take a parameter's place by itself."""
    delattr(experts, name)
    setattr(experts, name, value)


def hold_dense(experts: Any) -> None:
    """Let matrices that are still parameters be held as the quantised ones are."""
    for name in matrix_names(experts):
        weight = getattr(experts, name)
        if isinstance(weight, ExpertMatrices):
            continue
        matrices = _turned(experts, weight.detach())
        on_cpu = can_prepack(matrices.device, matrices.dtype)
        held = ExpertMatrices([prepacked(each) for each in matrices]) if on_cpu else DenseMatrices(matrices)
        hold(experts, name, held)


def make_dense(experts: Any) -> None:
    """Give `experts` their parameters again, dequantised."""
    for name in matrix_names(experts):
        matrices = getattr(experts, name)
        if isinstance(matrices, ExpertMatrices):
            dense = _turned(experts, matrices.dequantised(range(matrices.num_experts)))
            hold(experts, name, nn.Parameter(dense, requires_grad=False))


@torch.inference_mode()
def agree(experts: Any) -> bool:
    """Whether each way to compute the first and the last expert says what transformers' code says.

    That code runs over the dequantised matrices. The trial cannot tell: its reference has the same experts.
    """
    matrices = getattr(experts, matrix_names(experts)[0])
    pair = [0, matrices.num_experts - 1]
    dense = _dense_copy(experts, pair)
    first = next(dense.parameters())
    hidden = torch.randn(3, matrices.expert(0).in_features, generator=torch.Generator().manual_seed(0))
    hidden = hidden.to(first.device, first.dtype)
    index, chosen = (torch.tensor([[0, n], [n, 0], [0, n]], device=first.device) for n in (1, pair[1]))
    weights = torch.ones(6, 1, device=first.device, dtype=first.dtype)
    rows = hidden.repeat_interleave(2, 0)
    expected = ALL_EXPERTS_FUNCTIONS["batched_mm"](dense, rows, index.view(6, 1), weights).float()
    gaps = [(way(experts, hidden, chosen).view(6, -1).float() - expected).norm() for way in ways(first.device)]
    return all(bool(gap <= _TOLERANCE * expected.norm()) for gap in gaps)


def _dense_copy(experts: Any, indices: Sequence[int]) -> Any:
    """A module of the same class with the matrices of `indices` only, dequantised."""
    made = copy.copy(experts)
    made._parameters, made._modules = dict(experts._parameters), dict(experts._modules)
    for name in matrix_names(experts):
        matrices = getattr(experts, name)
        weight = _turned(experts, matrices.dequantised(indices))
        hold(made, name, nn.Parameter(weight, requires_grad=False))
        if experts.has_bias:
            bias = getattr(experts, f"{name}_bias").detach()[indices]
            setattr(made, f"{name}_bias", nn.Parameter(bias, requires_grad=False))
    made.num_experts = len(indices)
    return made


def _turned(experts: Any, matrices: Tensor) -> Tensor:
    """From `[E, N, K]` to a parameter of the family, and back."""
    return matrices.transpose(1, 2).contiguous() if experts.is_transposed else matrices
