"""Values of published configurations that matter to nothing here, and would stop transformers, or mislead it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from handler.model.checks.stored_settings import stored_settings
from handler.model.quantize import stored_values
from handler.seam.errors import BadModel
from model_memory.stored_codes import refusal

logger = logging.getLogger(__name__)

# Attention that runs everywhere. A published choice of another names a package of the author's machine.
_ANY_MACHINE = (None, "eager", "sdpa")


def name_form(config: Any, directory: Path) -> None:
    """Give `config` the stored form that config.json leaves unsaid.

    ModelOpt writes it to a file of its own, older versions to that alone; older bitsandbytes' has no `quant_method`.
    Raises BadModel for a file that is no JSON object.
    """
    form = getattr(config, "quantization_config", None)
    if not form and (found := stored_settings({}, directory)):
        config.quantization_config = dict(found)
    elif isinstance(form, dict) and (form.get("load_in_4bit") or form.get("load_in_8bit")):
        form.setdefault("quant_method", "bitsandbytes")


def check_form(config: Any, directory: Path) -> None:
    """Raise BadModel for a stored form that does not run here: its codes would be taken for weights."""
    values = stored_values(config)
    if refused := values and refusal(values):
        raise BadModel(f"{directory / 'config.json'}: {refused}")


def settle(config: Any) -> None:
    """Drop a padding token outside the vocabulary, an empty `quantization_config`, and a choice of attention.

    A `quantization_config` in the text part becomes the whole model's (Kimi K2.5). `compression_config` gets the name
    that it has since compressed-tensors 0.7.
    """
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if getattr(part, "_attn_implementation", None) not in _ANY_MACHINE:
            part._attn_implementation = None
    text = config.get_text_config()
    pad, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if isinstance(pad, int) and isinstance(size, int) and not -size <= pad < size:
        logger.warning("pad_token_id: %d is no id of the vocabulary of %d tokens, it is not used", pad, size)
        text.pad_token_id = None
    _settle_form(config, text)


def _settle_form(config: Any, text: Any) -> None:
    for part in (config, text):
        if getattr(part, "quantization_config", None) == {}:
            del part.quantization_config
        older = getattr(part, "compression_config", None)
        if isinstance(older, dict) and older and not getattr(part, "quantization_config", None):
            part.quantization_config = {"quant_method": "compressed-tensors", **older}
    if text is not config and (found := getattr(text, "quantization_config", None)) is not None:
        if getattr(config, "quantization_config", None) is None:
            config.quantization_config = found
        del text.quantization_config
