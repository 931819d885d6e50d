"""Values of published configurations that matter to nothing here, and would stop transformers, or mislead it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from handler.model.quantize import stored_values
from handler.seam.errors import BadModel
from model_memory.stored_codes import refusal

logger = logging.getLogger(__name__)

# Attention that runs everywhere. A published choice of another names a package of the author's machine.
_ANY_MACHINE = (None, "eager", "sdpa")


def check_form(config: Any, directory: Path) -> None:
    """Raise BadModel for a stored form that does not run here: its codes would be taken for weights."""
    values = stored_values(config)
    if refused := values and refusal(values):
        raise BadModel(f"{directory / 'config.json'}: {refused}")


def settle(config: Any) -> None:
    """Drop a padding token outside the vocabulary, an empty `quantization_config`, and a choice of attention.

    Name `compression_config` as it is called since compressed-tensors 0.7.
    """
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if getattr(part, "_attn_implementation", None) not in _ANY_MACHINE:
            part._attn_implementation = None
    text = config.get_text_config()
    pad, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if isinstance(pad, int) and isinstance(size, int) and not -size <= pad < size:
        logger.warning("pad_token_id: %d is no id of the vocabulary of %d tokens, it is not used", pad, size)
        text.pad_token_id = None
    if getattr(config, "quantization_config", None) == {}:
        del config.quantization_config
    older = getattr(config, "compression_config", None)
    if isinstance(older, dict) and older and not stored_values(config):
        config.quantization_config = {"quant_method": "compressed-tensors", **older}
