"""Experts that a checkpoint has one by one, where the model and the family's own files have them in one tensor.

llm-compressor stores each expert as linear layers, whatever the family; transformers joins them only for the families
whose own files are like that. Layouts: transformers 5.23, `is_transposed` and `is_concatenated` of a module of experts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from handler.model.loading.carried_weight import CarriedWeight

_SINGLE = re.compile(r"(.+\.experts)\.(\d+)\.(gate|up|down)_proj\.(weight|bias)")
_JOINED = {"gate_up_proj": ("gate", "up"), "up_proj": ("up",), "down_proj": ("down",)}


def join_experts(weights: Mapping[str, Any], skeleton: PreTrainedModel) -> dict[str, Any]:
    """`weights` by name, with one entry for all experts of a layer where the files have one for each.

    An entry is read when it is looked at, by `[...]`. `skeleton` is the model without weights. What transformers joins
    itself stays as it is.
    """
    single: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name in weights:
        if found := _SINGLE.fullmatch(name):
            path, expert, matrix, part = found.groups()
            single[path, part][f"{matrix} {expert}"] = name
    experts = _experts(skeleton)
    if not single or experts is None or _is_joined_already(skeleton):
        return dict(weights)
    joined: dict[str, Any] = {}
    for (path, part), names in single.items():
        joined |= {f"{path}.{name}": each for name, each in _layers(experts, part, names, weights)}
    used = {name for names in single.values() for name in names.values()}
    return {name: each for name, each in weights.items() if name not in used} | joined


def _experts(skeleton: nn.Module) -> Any:
    """The first module that holds all experts of a layer."""
    for name, module in skeleton.named_modules():
        held = dict(module.named_parameters(recurse=False))
        if name.endswith(".experts") and "down_proj" in held and held["down_proj"].dim() == 3:
            return module
    return None


def _is_joined_already(skeleton: PreTrainedModel) -> bool:
    steps = get_model_conversion_mapping(skeleton)
    sources = (source for step in steps for source in getattr(step, "source_patterns", ()))
    return any("experts" in source and "up_proj.weight" in source for source in sources)


def _layers(
    experts: Any, part: str, names: Mapping[str, str], weights: Mapping[str, Any]
) -> Iterator[tuple[str, _Joined]]:
    """The entries of one layer, by the model's name of the parameter."""
    count = len(experts.down_proj)
    suffix = "" if part == "weight" else "_bias"
    for joined, matrices in _JOINED.items():
        parameter = getattr(experts, joined + suffix, None)
        wanted = [[names.get(f"{matrix} {expert}", "") for matrix in matrices] for expert in range(count)]
        if parameter is not None and all(name for each in wanted for name in each):
            found = [[weights[name] for name in each] for each in wanted]
            yield joined + suffix, _Joined(found, parameter.shape, experts, is_matrix=part == "weight")


@dataclass(frozen=True, slots=True, eq=False)
class _Joined:
    """All experts of a layer: the entries of each, a gate and an up projection or one matrix."""

    entries: list[list[Any]]
    shape: torch.Size
    experts: Any
    is_matrix: bool

    def __getitem__(self, index: object) -> Tensor | CarriedWeight:
        stacked: Any = torch.stack([self._one(each) for each in self.entries])
        found: Tensor | CarriedWeight = stacked
        is_carried, is_transposed = isinstance(stacked, CarriedWeight), getattr(self.experts, "is_transposed", None)
        if not self.is_matrix or (is_carried and is_transposed is not None):
            # The quantiser transposes what such a module calls transposed.
            return found
        if is_transposed or stacked.shape != self.shape:
            dense: Tensor = stacked.dense() if is_carried else stacked
            found = dense.mT.contiguous()
        return found

    def _one(self, entries: list[Any]) -> Any:
        """The outputs of one expert: gate before up, or in turns."""
        parts = [each[...] for each in entries]
        axis = -2 if self.is_matrix else -1
        joined: Any = torch.cat(parts, dim=axis)
        if len(parts) == 1 or getattr(self.experts, "is_concatenated", None) is not False:
            return joined
        turns = torch.arange(joined.shape[axis]).view(2, -1).t().flatten()
        if isinstance(joined, CarriedWeight):
            return CarriedWeight(joined.weight.rows(turns), joined.dtype)
        return joined.index_select(axis, turns)
