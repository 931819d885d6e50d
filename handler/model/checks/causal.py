"""Refuses configurations that have no causal language model, or that would be served as only half of the model."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, GenerationMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from handler.model.loading.text_part import whole_class
from handler.seam.errors import UnsupportedModel


def check_causal(config: Any, directory: Path) -> None:
    """Raise UnsupportedModel for an encoder-decoder and for a family without a causal language model.

    transformers has a decoder-only class for some encoder-decoders (BART); it would answer from half of the model.
    """
    named = f"{directory / 'config.json'}: model type {config.model_type!r}"
    text = config.get_text_config(decoder=True)
    if any(getattr(part, "is_encoder_decoder", False) for part in (config, text)):
        raise UnsupportedModel(f"{named} is an encoder-decoder; only decoder-only language models can be served")
    if getattr(text, "use_bidirectional_attention", False) is True:
        raise UnsupportedModel(f"{named} reads a prompt in both directions; only causal language models can be served")
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    whole = whole_class(config)
    generates = whole is not None and issubclass(whole, GenerationMixin)  # not by diffusion, nor moves of a robot
    if not generates and type(config) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedModel(f"{named} has no causal language model in transformers")
    if whole is not None and type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING and _asked_beside_text(whole):
        raise UnsupportedModel(
            f"{named} has no causal language model in transformers that works without {_asked_beside_text(whole)[0]}"
        )


def _asked_beside_text(whole: type) -> list[str]:
    """Arguments without which a model of this class does not run, apart from the text."""
    parameters = inspect.signature(whole.forward).parameters.values()  # type: ignore[attr-defined]
    needed = (each for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD)
    return [each.name for each in needed if each.name not in ("self", "input_ids")]
