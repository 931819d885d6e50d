"""Checks, once for each kind, that a layer over quantised weights gives the products of these weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from handler.linears.cuda.int4_linear import MAX_PACKED_ROWS
from handler.linears.quantised_weight import Form, QuantisedWeight

# The weights of some outputs.
Rows = Callable[[slice], QuantisedWeight]

logger = logging.getLogger(__name__)

# Largest relative difference of products that rounding of weights, scales and activations to bfloat16 explains.
TOLERANCE = 3e-2
# Groups of a multiple of it have one kernel.
_GROUP = 32
# Outputs whose products are compared, first and last.
_COMPARED = 64


class ProductCheck:
    """The layout of packed weights is the machine's own: only a product shows that it is read as it was written."""

    def __init__(self) -> None:
        self._passed: dict[tuple[type, Form], bool] = {}

    def passes(self, layer: Any, form: Form, rows: Rows, dtype: torch.dtype) -> bool:
        """Whether `layer` multiplies by the weight of `rows`; the first of each kind is tried, with few and many rows.

        `form` is that of the weight, `dtype` that of activations. `rows` is called for what is tried only.
        """
        kind = (type(layer), replace(form, group=form.group % _GROUP))
        if kind not in self._passed:
            gap = _gap(layer, rows, dtype)
            self._passed[kind] = gap <= TOLERANCE
            if not self._passed[kind]:
                logger.error("%d-bit weights stay dense: their products differ by %.2g, relative", form.bits, gap)
        return self._passed[kind]


def _gap(layer: Any, rows: Rows, dtype: torch.dtype) -> float:
    """Largest difference of the products, relative to the largest product."""
    device = rows(slice(0, 1)).codes.device
    few = 3
    many = MAX_PACKED_ROWS + 1 if device.type == "cuda" else few
    x = torch.randn(many, layer.in_features, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    bias = 0 if layer.bias is None else layer.bias.float()
    gaps: list[Tensor] = []
    for part in (slice(0, _COMPARED), slice(-_COMPARED, None)):
        expected = x.float() @ rows(part).dequantise(torch.float32).T
        for count in {few, many}:
            found = (layer(x[:count]).float() - bias)[:, part]
            gaps.append((found - expected[:count]).abs().max() / expected.abs().max().clamp(min=1e-6))
    return max(map(float, gaps))
