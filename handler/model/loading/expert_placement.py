"""Puts quantised matrices into transformers' modules of experts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from handler.linears.experts.making import agree, can_hold, hold, hold_dense, make_dense, matrices_of
from handler.linears.experts.quantised_experts import NAME, is_experts, is_quantised, matrix_names, use
from handler.linears.product_check import ProductCheck
from handler.model.loading.layer_report import LayerReport
from handler.model.loading.layer_source import LayerSource

logger = logging.getLogger(__name__)


def expert_matrices(model: nn.Module) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names of the parameters `[E, N, K]` of experts, or `[E, K, N]`, with N and K."""
    for path, module in model.named_modules():
        if is_experts(module):
            experts: Any = module
            for name in matrix_names(experts):
                shape = getattr(experts, name).shape[1:]
                yield f"{path}.{name}", (shape[1], shape[0]) if experts.is_transposed else (shape[0], shape[1])


class ExpertPlacement:
    """Experts' matrices as they are read; `finish` when all are."""

    def __init__(self, check: ProductCheck, report: LayerReport, dtype: torch.dtype) -> None:
        """`dtype` is that of activations."""
        self._check, self._report, self._dtype = check, report, dtype

    def place(self, experts: Any, name: str, sources: Iterable[LayerSource]) -> bool:
        """Put layers of `sources`, one for each expert, in the parameter's place; False if no kernel takes them."""
        attribute = name.rpartition(".")[2]
        parameter = getattr(experts, attribute)
        layers: list[Any] = []
        if attribute not in matrix_names(experts) or not isinstance(parameter, nn.Parameter):
            return False
        for source in sources:
            layer: Any = source.linear(None)
            if layer is None or not can_hold(layer):
                return False
            if not layers and not self._check.passes(layer, source.form, source.rows, self._dtype):
                return False
            layers.append(layer)
            bits = source.form.bits
        sizes = (layers[0].in_features, layers[0].out_features)
        if parameter.shape != (len(layers), *(sizes if experts.is_transposed else sizes[::-1])):
            return False
        hold(experts, attribute, matrices_of(layers, share_rows=attribute == matrix_names(experts)[0]))
        self._report.placed_experts(bits)
        return True

    def finish(self, model: Any) -> None:
        """Let the model compute its quantised experts; those that come out wrong become dense again."""
        found = [module for module in model.modules() if is_experts(module) and is_quantised(module)]
        if not found:
            return
        for experts in found:
            hold_dense(experts)
        own = model.config._experts_implementation
        use(model, dense=own)
        if all(map(_is_right, {type(each): each for each in found}.values())):
            return
        logger.error("quantised experts are made dense: they differ from transformers' own over the same weights")
        model.set_experts_implementation(own)
        for experts in found:
            make_dense(experts)


def _is_right(experts: Any) -> bool:
    return experts.config._experts_implementation == NAME and agree(experts)
