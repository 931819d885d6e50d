"""Checkpoints that bitsandbytes has quantised: what their configuration or their shapes would spoil here."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from handler.model.quantize import NF4_ROWS

logger = logging.getLogger(__name__)

_THRESHOLD = "llm_int8_threshold"
# transformers' default where config.json names none.
_DEFAULT_THRESHOLD = 6.0


def silence_bitsandbytes() -> None:
    """Leave errors alone in its log: it warns in each int8 layer of each pass that it casts bfloat16 to float16."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def drop_threshold(model_config: Any) -> None:
    """Compute all features of a stored 8-bit checkpoint in 8 bits.

    Above the threshold, features are chosen from the whole batch, so a neighbour would change a sequence's numbers
    (docs/decisions/0012).
    """
    found = getattr(model_config, "quantization_config", None)
    values = found if isinstance(found, dict) or found is None else vars(found)
    if not values or values.get("quant_method") != "bitsandbytes" or not values.get("load_in_8bit"):
        return
    threshold = values.get(_THRESHOLD, _DEFAULT_THRESHOLD)
    if threshold:
        logger.info(
            "%s=%s of config.json is 0 here, so that no answer depends on its neighbours", _THRESHOLD, threshold
        )
    values[_THRESHOLD] = 0.0


@torch.no_grad()
def dequantise_odd(model: nn.Module) -> None:
    """Make dense the 4-bit layers whose shape does not fit the CPU kernel: it fails an assertion in a forward pass."""
    found: list[tuple[str, Any]] = [(n, m) for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"]
    odd = [(name, module) for name, module in found if _is_odd(module)]
    for name, module in odd:
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, _dense(module))
    if odd:
        logger.warning(
            "%d stored 4-bit layers are made dense, their shape does not fit the kernel: %s",
            *(len(odd), ", ".join(f"{name} ({each.out_features} x {each.in_features})" for name, each in odd)),
        )


def _is_odd(module: Any) -> bool:
    return bool(module.out_features % NF4_ROWS or module.in_features % module.weight.quant_state.blocksize)


def _dense(module: Any) -> nn.Linear:
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
    linear = nn.Linear(module.in_features, module.out_features, module.bias is not None, dtype=weight.dtype)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if module.bias is not None:
        linear.bias = nn.Parameter(module.bias.data.to(weight.dtype), requires_grad=False)
    return linear
