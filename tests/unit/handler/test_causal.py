"""Only whole causal language models are loaded; every other family ends the start with one short sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from handler.model.checks.causal import check_causal
from handler.seam.errors import BadModel


@pytest.mark.parametrize("family", ["t5", "mt5", "bart", "mbart", "pegasus", "led", "t5gemma", "whisper", "marian"])
def test_encoder_decoders_are_refused(family: str) -> None:
    with pytest.raises(BadModel, match=f"'{family}' is an encoder-decoder") as error:
        check_causal(AutoConfig.for_model(family), Path("/m"))
    assert len(str(error.value)) < 120


@pytest.mark.parametrize("family", ["vit", "clip"])
def test_families_without_a_language_model_are_refused(family: str) -> None:
    with pytest.raises(BadModel, match=f"'{family}' has no causal language model"):
        check_causal(AutoConfig.for_model(family), Path("/m"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba", "gemma3", "qwen3_moe"])
def test_language_models_pass(family: str) -> None:
    check_causal(AutoConfig.for_model(family), Path("/m"))


def test_the_decoder_of_an_encoder_decoder_passes() -> None:
    check_causal(AutoConfig.for_model("bart", is_encoder_decoder=False), Path("/m"))


def test_a_family_of_the_models_own_code_passes() -> None:
    config: Any = AutoConfig.for_model("vit")
    config.auto_map = {"AutoModelForCausalLM": "modeling_x.Model"}
    check_causal(config, Path("/m"))
