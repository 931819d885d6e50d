"""Image-text checkpoints serve text: the language part alone is read, and says what the whole model says of a text.

`python -m tests.support.tiny_image_text` starts all types that transformers has.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from handler.formats.tensor_files import TensorFiles
from handler.model.loader import load
from handler.model.placement import needs_of
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadModel
from tests.support import tiny_image_text
from tests.support.tiny_image_text import NUM_TOKENS, PROMPT

FORMATS = Path(__file__).resolve().parents[1] / "data" / "formats"
# Type, its runner, the class that serves it. Each stands for a way of naming or nesting.
STARTED = [
    ("llava", "slots", "LlamaForCausalLM"),
    ("qwen2_vl", "slots", "Qwen2VLForConditionalGeneration"),
    ("qwen2_5_vl", "slots", "Qwen2_5_VLForConditionalGeneration"),
    ("qwen3_vl", "slots", "Qwen3VLForConditionalGeneration"),
    ("glm4v", "slots", "Glm4vForConditionalGeneration"),
    ("qwen3_5", "dynamic_cache", "Qwen3_5ForCausalLM"),
    ("kimi_k25", "slots", "DeepseekV3ForCausalLM"),
    ("gemma3n", "slots", "Gemma3nForCausalLM"),
    ("aya_vision", "slots", "AyaVisionForConditionalGeneration"),
    ("blip-2", "slots", "OPTForCausalLM"),
]


@pytest.fixture(autouse=True)
def _on_one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more, and lose much where the cores are shared."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize(("model_type", "runner", "served"), STARTED)
def test_a_text_is_answered_as_the_whole_model_answers_it(
    model_type: str, runner: str, served: str, tmp_path: Path
) -> None:
    engine, whole = tiny_image_text.started(model_type, tmp_path)
    try:
        outcome = engine.submit(PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True)
        engine.run()
        loaded = engine.core.runner.loaded
        assert (engine.core.runner.name, type(loaded.model).__name__) == (runner, served)
        assert outcome.token_ids == tiny_image_text.greedy(whole, PROMPT, NUM_TOKENS)
        assert loaded.eos_token_ids == {tiny_image_text.EOS_ID}
    finally:
        engine.close()


def of(directory: Path) -> EngineConfig:
    return EngineConfig(
        model=str(directory), cache_dir=str(directory), device="cpu", dtype="float32", quantize=Quantize.NONE
    )


def test_no_weight_of_a_tower_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = []
    find = TensorFiles.__getitem__

    def watched(tensors: TensorFiles, name: str) -> torch.Tensor:
        read.append(name)
        return find(tensors, name)

    monkeypatch.setattr(TensorFiles, "__getitem__", watched)
    tiny_image_text.save("llava", tmp_path)
    with caplog.at_level(logging.INFO):
        load(of(tmp_path), tmp_path, lambda *_: None)
    stored = load_file(tmp_path / "model.safetensors")
    assert {name for name in stored if "language_model" in name or "lm_head" in name} == set(read)
    assert len(stored) > len(read)
    assert "llava: only the language part is loaded, images and sound are not served" in caplog.messages
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_names_of_older_checkpoints_are_those_of_transformers(prefix: str, tmp_path: Path) -> None:
    """Llava's were `language_model.model.` and `language_model.lm_head.` before they became `model.language_model.`."""
    whole = tiny_image_text.save("llava", tmp_path)
    stored = whole.state_dict()
    renamed = {name.replace("model.language_model.", prefix): weight.clone() for name, weight in stored.items()}
    renamed = {
        name.replace("model.vision_tower", "vision_tower").replace("model.multi_modal", "multi_modal"): weight
        for name, weight in renamed.items()
    }
    if prefix.startswith("language_model"):
        renamed["language_model.lm_head.weight"] = renamed.pop("lm_head.weight")
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    model = load(of(tmp_path), tmp_path, lambda *_: None).model
    tokens = torch.tensor([PROMPT])
    assert torch.equal(model(input_ids=tokens).logits, whole(input_ids=tokens).logits)


def test_a_tie_said_by_the_whole_models_configuration_holds(tmp_path: Path) -> None:
    tiny_image_text.save("gemma3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["text_config"]["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model = load(of(tmp_path), tmp_path, lambda *_: None).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_an_output_layer_that_differs_is_kept_whatever_the_configuration_says(tmp_path: Path) -> None:
    """InternVL's says tied outside by default, and untied in its text part."""
    whole = tiny_image_text.save("internvl", tmp_path)
    model = load(of(tmp_path), tmp_path, lambda *_: None).model
    assert torch.equal(model.get_output_embeddings().weight, whole.get_output_embeddings().weight)


@pytest.mark.parametrize(
    ("model_type", "sentence"),
    [
        ("idefics", "no runner computes this model correctly: .*idefics does not run: ValueError: Exactly 1 of pixel"),
        ("blip", "model type 'blip' has no causal language model in transformers that works without pixel_values"),
        ("diffusion_gemma", "model type 'diffusion_gemma' has no causal language model in transformers"),
        ("evolla", "model type 'evolla' has no causal language model in transformers"),
        ("florence2", "model type 'florence2' is an encoder-decoder"),
        ("paligemma", "model type 'paligemma' reads a prompt in both directions"),
    ],
)
def test_what_takes_no_text_alone_is_refused_in_a_sentence(model_type: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=sentence) as caught:
        tiny_image_text.started(model_type, tmp_path)
    assert str(caught.value).count(model_type) < 3
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("form", ["gptq", "compressed_tensors-w4a16", "awq-gemm"])
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_language_part_that_is_stored_quantised_is_read(form: str, is_nested: bool, tmp_path: Path) -> None:
    """The checkpoints of the formats' own libraries, as the language part of a LLaVA."""
    source = FORMATS / form
    text = json.loads((source / "config.json").read_text())
    values = tiny_image_text.tiny_config("llava").to_dict() | {"text_config": text}
    if not is_nested:
        values["quantization_config"] = text.pop("quantization_config")
    (tmp_path / "config.json").write_text(json.dumps(values))
    stored = load_file(source / "model.safetensors")
    inside = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in stored.items()}
    save_file(inside | {"model.vision_tower.x.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    expected, found = (load(of(each), each, lambda *_: None) for each in (source, tmp_path))
    assert found.quantize == expected.quantize
    assert found.model.config.model_type == "llama"
    tokens = torch.arange(16)[None]
    assert torch.equal(found.model(input_ids=tokens).logits, expected.model(input_ids=tokens).logits)


def test_a_stored_form_said_in_the_text_part_is_the_models(tmp_path: Path) -> None:
    """As in Kimi K2.5."""
    config = tiny_image_text.tiny_config("llava")
    config.text_config.quantization_config = {"quant_method": "nonsense"}
    config.save_pretrained(tmp_path)
    with pytest.raises(BadModel, match="stored as nonsense is not known here"):
        load(of(tmp_path), tmp_path, lambda *_: None)


def test_what_a_model_needs_leaves_its_towers_out(tmp_path: Path) -> None:
    whole = tiny_image_text.save("llava", tmp_path)
    towers = sum(
        each.nbytes for name, each in whole.state_dict().items() if "language" not in name and "lm_head" not in name
    )
    both = sum(each.nbytes for each in whole.state_dict().values())
    (found,) = needs_of(tmp_path, of(tmp_path), torch.float32, None).forms
    assert found.num_bytes == both - towers
