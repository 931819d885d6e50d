"""Rotary frequencies that do not change from step to step.

For two rope types transformers chooses the frequencies in each forward pass, by the largest position in it. That
position may belong to another sequence of the batch, or to a chunk instead of the whole prompt. Results would depend on
the batch, and keys of one sequence would be rotated by two sets of frequencies. docs/decisions/0070.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

logger = logging.getLogger(__name__)

_CHANGING = frozenset({"dynamic", "longrope"})
# The type that transformers never recomputes.
_SETTLED = "default"


def settle_rotary(model: nn.Module, max_model_len: int) -> None:
    """Choose the frequencies of every rotary embedding once, for sequences of up to `max_model_len` tokens.

    `longrope`: the long set if sequences may exceed the original context, else the short one. `dynamic` scales only
    beyond the model's longest sequence, which no sequence here exceeds.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, str) and kinds in _CHANGING:
            _settle(module, kinds, None, max_model_len)
            module.rope_type = _SETTLED  # type: ignore[assignment]
        elif isinstance(kinds, dict):
            for layer_type in [name for name, kind in kinds.items() if kind in _CHANGING]:
                _settle(module, kinds[layer_type], layer_type, max_model_len)
                kinds[layer_type] = _SETTLED


def changing_ropes(model: Any) -> set[str]:
    """Rope types of `model` whose frequencies still follow the longest sequence of a batch."""
    found: set[str] = set()
    modules = [module for module in model.modules() if hasattr(module, "rope_type")]
    for module in modules:
        kinds: Any = module.rope_type
        found |= {kinds} if isinstance(kinds, str) else set(kinds.values())
    # A model with its own code names the type in its configuration only.
    return (found if modules else rope_types(model.config.get_text_config())) & _CHANGING


def rope_types(config: Any) -> set[str]:
    """Every `rope_type` a text config names, for all layers or for each kind of layer."""
    found: set[str] = set()
    for name in ("rope_parameters", "rope_scaling"):
        parameters = getattr(config, name, None) or {}
        for part in (parameters, *(value for value in parameters.values() if isinstance(value, dict))):
            found |= {str(part[key]) for key in ("rope_type", "type") if part.get(key)}
    return found


def _settle(module: Any, kind: str, layer_type: str | None, max_model_len: int) -> None:
    if kind != "longrope":
        return
    parameters = module.config.rope_parameters
    original = int((parameters if layer_type is None else parameters[layer_type])["original_max_position_embeddings"])
    prefix = "" if layer_type is None else f"{layer_type}_"
    inv_freq = getattr(module, f"{prefix}inv_freq")
    if max_model_len <= original:
        inv_freq.copy_(getattr(module, f"{prefix}original_inv_freq"))
        return
    options = {} if layer_type is None else {"layer_type": layer_type}
    long, _ = ROPE_INIT_FUNCTIONS[kind](module.config, inv_freq.device, seq_len=original + 1, **options)
    inv_freq.copy_(long)
    logger.info(
        "rotary embedding: every sequence uses the long factors, because MAX_TOTAL_TOKENS is %d; with %d or less it "
        "would use the short ones, which are better for short sequences",
        *(max_model_len, original),
    )
