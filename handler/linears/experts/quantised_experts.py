"""What transformers' experts compute, over quantised matrices: an experts implementation by its own interface.

A module of experts stays the family's: its gate, activation, biases and norm are its own code. Only its two parameters
of three dimensions become `ExpertMatrices`. docs/decisions/0114.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from handler.linears.experts.matrices import BatchedMatrices, ExpertMatrices

# Multiplies `rows` `[T, K]` by one expert's matrix of a name: `[T, N]`.
Product = Callable[[str, int, Tensor], Tensor]

NAME = "heir_quantised"
# Tokens of a step that does not wait for the host on CUDA, unless more sequences decode at once. A larger one holds a
# prompt and no graph: every expert on all its tokens would cost more than waiting.
MAX_STATIC_TOKENS = 256
# What a gather moves of the matrices it takes: it reads and writes them, and the product reads them again.
_GATHER_COST = 3
# Numbers that torch computes in one thread. Between threads it divides a row anywhere, and the ends of parts round
# otherwise than vectors do.
_ONE_THREAD = 32_768


def is_experts(module: nn.Module) -> bool:
    """Whether `module` computes experts by transformers' interface; only its decorator sets this attribute."""
    return hasattr(module, "has_post_expert_norm")


def matrix_names(experts: Any) -> tuple[str, str]:
    """The attributes of `experts` that hold matrices: the first product's, then the second's."""
    return ("gate_up_proj" if experts.has_gate else "up_proj"), "down_proj"


def is_quantised(experts: nn.Module) -> bool:
    """Whether one of the matrices is quantised."""
    names = ("gate_up_proj", "up_proj", "down_proj")
    return any(isinstance(getattr(experts, name, None), ExpertMatrices) for name in names)


def use(model: Any, *, most: int = MAX_STATIC_TOKENS, dense: str = "grouped_mm") -> None:
    """Let quantised experts of `model` be computed here; `dense` is transformers' name for how the others are.

    On CUDA, steps of up to `most` tokens do not wait for the host.
    """
    ALL_EXPERTS_FUNCTIONS.register(NAME, partial(quantised_experts, most=most, dense=dense))
    model.set_experts_implementation(NAME)


def quantised_experts(
    experts: Any,
    hidden: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    *,
    most: int = MAX_STATIC_TOKENS,
    dense: str = "grouped_mm",
) -> Tensor:
    """The experts' output `[T, H]` for `hidden` `[T, H]`, chosen experts `[T, k]` and their weights `[T, k]`.

    On CPU a token's result is the same, to the last bit, whatever other tokens there are.
    """
    if not is_quantised(experts):
        forward = ALL_EXPERTS_FUNCTIONS.get_interface(dense, type(experts).forward.__wrapped__)
        found: Tensor = forward(experts, hidden, top_k_index, top_k_weights)
        return found
    tokens, chosen = top_k_index.shape
    if hidden.device.type == "cpu" or tokens > most:
        out = _grouped(experts, hidden, top_k_index)
    elif tokens * chosen * _GATHER_COST <= _matrices(experts)[0].num_experts:
        out = _chosen(experts, hidden, top_k_index)
    else:
        out = _every(experts, hidden, top_k_index)
    return _summed(out, top_k_weights).to(hidden.dtype)


def experts_by(product: Product, experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The experts' output `[T, H]` as above, by another product than that of their matrices; on any device."""
    count = int(getattr(experts, "num_experts", None) or int(top_k_index.max()) + 1)
    out = _grouped(experts, hidden, top_k_index, product, count)
    return _summed(out, top_k_weights).to(hidden.dtype)


def _summed(out: Tensor, top_k_weights: Tensor) -> Tensor:
    """`[T, k, H]` weighted, in the order of the choice, as transformers sums, in float32."""
    weighted = out * top_k_weights[..., None]
    summed = weighted[:, 0].float()
    for i in range(1, out.shape[1]):
        summed = summed + weighted[:, i]
    return summed


def ways(device: torch.device) -> tuple[Callable[[Any, Tensor, Tensor], Tensor], ...]:
    """Functions of the module, `hidden` and `top_k_index` that a step may run on `device`; `[T, k, H]`, unweighted."""
    return (_grouped,) if device.type == "cpu" else (_grouped, _chosen, _every)


def _matrices(experts: Any) -> tuple[Any, Any]:
    first, second = matrix_names(experts)
    return getattr(experts, first), getattr(experts, second)


def _grouped(
    experts: Any, hidden: Tensor, top_k_index: Tensor, product: Product | None = None, num_experts: int | None = None
) -> Tensor:
    """`[T, k, H]`: each expert on the tokens that chose it. On CUDA the host waits for how many those are."""
    product = product or partial(_own_product, experts)
    flat = top_k_index.flatten()
    order = flat.argsort(stable=True)
    counts = flat.bincount(minlength=num_experts or _matrices(experts)[0].num_experts).tolist()
    ids = flat.index_select(0, order)
    rows = hidden.index_select(0, order // top_k_index.shape[1])
    for name, finish in zip(matrix_names(experts), (_gated, _normed), strict=True):
        parts = enumerate(rows.split(counts))
        rows = torch.cat([product(name, i, part) for i, part in parts if len(part)])
        rows = finish(experts, _biased(experts, name, rows, ids))
    return torch.empty_like(rows).index_copy_(0, order, rows).view(*top_k_index.shape, -1)


def _own_product(experts: Any, name: str, expert: int, rows: Tensor) -> Tensor:
    out: Tensor = getattr(experts, name).expert(expert).forward(rows)
    return out


def _chosen(experts: Any, hidden: Tensor, top_k_index: Tensor) -> Tensor:
    """`[T, k, H]`: each token with the gathered matrices of its experts."""
    ids, num_chosen = top_k_index.flatten(), top_k_index.shape[1]
    rows = hidden[:, None].expand(-1, num_chosen, -1).reshape(len(ids), -1)
    for name, finish in zip(matrix_names(experts), (_gated, _normed), strict=True):
        matrices: BatchedMatrices = getattr(experts, name)
        rows = finish(experts, _biased(experts, name, matrices.chosen(rows, ids), ids))
    return rows.view(*top_k_index.shape, -1)


def _every(experts: Any, hidden: Tensor, top_k_index: Tensor) -> Tensor:
    """`[T, k, H]`: every expert on every token, since nearly all are read in any case."""
    rows = hidden
    for name, finish in zip(matrix_names(experts), (_gated, _normed), strict=True):
        matrices: BatchedMatrices = getattr(experts, name)
        rows = matrices.every(rows)
        if experts.has_bias:
            rows = rows + getattr(experts, f"{name}_bias")[:, None]
        rows = finish(experts, rows)
    tokens = torch.arange(len(hidden), device=hidden.device)[:, None]
    return rows[top_k_index, tokens]


def _biased(experts: Any, name: str, rows: Tensor, ids: Tensor) -> Tensor:
    return rows + getattr(experts, f"{name}_bias").index_select(0, ids) if experts.has_bias else rows


def _gated(experts: Any, rows: Tensor) -> Tensor:
    """What the family does between the products."""
    gate = experts._apply_gate if experts.has_gate else experts.act_fn
    if rows.device.type != "cpu":
        out: Tensor = gate(rows)
        return out
    pieces = rows.split(max(2, _ONE_THREAD // rows.shape[-1]))
    # torch has other code for one row, which is contiguous when it is halved, than for several.
    return torch.cat([gate(each) if len(each) > 1 else gate(each.repeat(2, 1))[:1] for each in pieces])


def _normed(experts: Any, rows: Tensor) -> Tensor:
    out: Tensor = experts.post_expert_norm(rows) if experts.has_post_expert_norm else rows
    return out
