"""Refuses configurations that AutoModelForCausalLM would not load, or would load as only half of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from handler.seam.errors import UnsupportedModel


def check_causal(config: Any, directory: Path) -> None:
    """Raise UnsupportedModel for an encoder-decoder and for a family without a causal language model.

    transformers has a decoder-only class for some encoder-decoders (BART); it would answer from half of the model.
    """
    named = f"{directory / 'config.json'}: model type {config.model_type!r}"
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{named} is an encoder-decoder; only decoder-only language models can be served")
    of_the_model = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if not of_the_model and type(config) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedModel(f"{named} has no causal language model in transformers")
