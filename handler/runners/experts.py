"""Mixtures of experts on GPUs where torch's grouped product waits for the host.

`torch.nn.functional.grouped_mm` has a kernel for bfloat16 on compute capability 9.x and 10.x only. Elsewhere it reads
the row counts on the host and launches one product for each expert (aten/src/ATen/native/GroupedMMUtils.h), so no CUDA
graph can hold a decode step (pytorch#169970).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from handler.linears.experts import quantised_experts
from handler.linears.experts.quantised_experts import MAX_STATIC_TOKENS, is_experts, is_quantised
from handler.model.loader import LoadedModel

logger = logging.getLogger(__name__)

_NAME = "heir_static"
_GROUPED_MM = {9, 10}
# Largest difference of the two ways to compute experts, relative to the output.
_TOLERANCE = 0.05


def use_static_experts(loaded: LoadedModel, max_num_seqs: int) -> bool:
    """Set experts that never wait for the host in a decode step of `max_num_seqs`, if this GPU and dtype need them.

    True if they were set. Experts in a form of transformers' own (fp8) have their own products.
    """
    if loaded.device.type != "cuda":
        return False
    most = max(MAX_STATIC_TOKENS, max_num_seqs)
    if _implementation(loaded.model) != quantised_experts.NAME:
        return _use_dense(loaded, most)
    is_static = _use_dense(loaded, most)
    quantised_experts.use(loaded.model, most=most, dense=_NAME if is_static else "grouped_mm")
    return True


def _use_dense(loaded: LoadedModel, most: int) -> bool:
    """As `use_static_experts`, for unquantised ones."""
    major, _ = torch.cuda.get_device_capability(loaded.device)
    has_kernel = major in _GROUPED_MM and loaded.dtype is torch.bfloat16
    ours = ("grouped_mm", quantised_experts.NAME)
    if has_kernel or _implementation(loaded.model) not in ours or not has_dense_experts(loaded.model):
        return False
    if not _all_agree(loaded.model):
        logger.warning("experts: computing all differs from computing those chosen; decoding waits for the host")
        return False
    ALL_EXPERTS_FUNCTIONS.register(_NAME, partial(static_experts, most=most))
    loaded.model.set_experts_implementation(_NAME)
    return True


def most_static_tokens(model: Any) -> int | None:
    """Tokens of the largest step that does not wait for the host; None if experts bound no step."""
    found = _implementation(model)
    if found not in (_NAME, quantised_experts.NAME):
        return None
    most: int = ALL_EXPERTS_FUNCTIONS[found].keywords["most"]
    return most


def _implementation(model: Any) -> str | None:
    found: str | None = getattr(model.config, "_experts_implementation", None)
    return found


def has_dense_experts(model: nn.Module) -> bool:
    """Whether `model` has experts as transformers' modules with weights `[E, ...]` that no library quantised."""
    found = _experts(model)
    return bool(found) and all(weight.element_size() > 1 for module in found for weight in module.parameters())


def _experts(model: nn.Module) -> list[nn.Module]:
    """Those of unquantised weights, and those of fp8, whose module is another."""
    return [module for module in model.modules() if is_experts(module) and not is_quantised(module)]


@torch.inference_mode()
def _all_agree(model: nn.Module) -> bool:
    """Whether `_all_experts` says what transformers' code says, on a module of each class. The trial cannot tell: its
    reference has the same experts."""
    return all(_agrees(experts) for experts in {type(each): each for each in _experts(model)}.values())


def _agrees(experts: Any) -> bool:
    first = experts.gate_up_proj if experts.has_gate else experts.up_proj
    width, last = first.shape[-2 if experts.is_transposed else -1], first.shape[0] - 1
    hidden = torch.randn(2, width, generator=torch.Generator().manual_seed(0)).to(first.device, first.dtype)
    index = torch.tensor([[0, last], [last, 0]], device=first.device)
    weights = torch.tensor([[0.75, 0.25], [0.5, 0.5]], device=first.device, dtype=first.dtype)
    expected = _call("batched_mm", experts, hidden, index, weights).float()
    found = _all_experts(experts, hidden, index, weights).float()
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())


def static_experts(
    experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor, *, most: int = MAX_STATIC_TOKENS
) -> Tensor:
    """The experts' output `[T, H]` for `hidden` `[T, H]`, chosen experts and their weights `[T, k]`.

    `experts` is transformers' module with weights `[E, ...]`. Few tokens gather the weights they need; more compute
    every expert, since nearly all are read in any case. More than `most` wait for the host.
    """
    tokens, chosen = top_k_index.shape
    if tokens > most or experts._is_expert_parallel:
        return _call("grouped_mm", experts, hidden, top_k_index, top_k_weights)
    if tokens * chosen <= int(experts.num_experts):
        return _call("batched_mm", experts, hidden, top_k_index, top_k_weights)
    return _all_experts(experts, hidden, top_k_index, top_k_weights)


def _call(name: str, *arguments: Any) -> Tensor:
    found: Tensor = ALL_EXPERTS_FUNCTIONS[name](*arguments)
    return found


def _all_experts(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Each expert on each token `[E, T, H]`, then the chosen ones' weighted sum."""
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    out = _product(experts, first, hidden)
    out = experts._apply_gate(out) if experts.has_gate else experts.act_fn(out)
    out = _product(experts, "down_proj", out)
    if experts.has_post_expert_norm:
        out = experts.post_expert_norm(out)
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    chosen = out[top_k_index, rows]
    # In the order of the choice, as transformers sums.
    summed: Tensor = (chosen * top_k_weights[..., None]).sum(dim=1)
    return summed.to(hidden.dtype)


def _product(experts: Any, name: str, rows: Tensor) -> Tensor:
    weight = getattr(experts, name)
    out: Tensor = rows @ (weight if experts.is_transposed else weight.transpose(-2, -1))
    return out + getattr(experts, f"{name}_bias")[:, None] if experts.has_bias else out
