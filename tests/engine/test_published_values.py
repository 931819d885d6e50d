"""Configurations as they are published: what matters to nothing here stops nothing, and changes no logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from container.text.tokenizer import Tokenizer
from handler.model.loader import load
from handler.model.location import check_files
from handler.seam.config import EngineConfig
from handler.seam.errors import BadModel
from tests.support.tiny_models import EOS_ID

FORMATS = Path(__file__).resolve().parents[1] / "data" / "formats"
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
OLD_ROPE = {"rope_parameters": None, "rope_theta": 10000.0}
TOKEN = {"content": "<|im_start|>", "special": True}
HARMLESS: list[tuple[str, dict[str, Any]]] = [
    ("config.json", {"_attn_implementation_autoset": True, "_commit_hash": "x", "_private": {"a": 1}, "future": True}),
    ("config.json", {"attn_implementation": "flash_attention_2"}),
    ("config.json", {"_attn_implementation": "flash_attention_2"}),
    ("config.json", {"_attn_implementation": "flash_attention_3"}),
    ("config.json", {"_attn_implementation": "flex_attention"}),
    ("config.json", {"dtype": None, "torch_dtype": "float16"}),
    ("config.json", {"torch_dtype": "torch.bfloat16", "dtype": "float32"}),
    ("config.json", OLD_ROPE | {"rope_scaling": {"type": "linear", "factor": 1.0}}),
    ("config.json", OLD_ROPE | {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 1.0}}),
    ("config.json", OLD_ROPE | {"rope_scaling": None}),
    ("config.json", {"rope_theta": 10000.0, "rope_parameters": ROPE | {"future_key": 1}}),
    ("config.json", {"transformers_version": "99.0.0.dev0", "use_cache": False, "pretraining_tp": 2}),
    ("config.json", {"quantization_config": {}}),
    ("config.json", {"quantization_config": None, "head_dim": None, "architectures": ["FutureForCausalLM"]}),
    ("config.json", {"pad_token_id": 320}),
    ("config.json", {"pad_token_id": 10**9, "bos_token_id": 10**9}),
    ("config.json", {"pad_token_id": -1}),
    ("generation_config.json", {"cache_implementation": "hybrid", "use_cache": False}),
    ("generation_config.json", {"cache_implementation": "future", "future_key": {"a": 1}, "_private": 3}),
    ("generation_config.json", {"temperature": 0.0, "do_sample": True, "top_p": 2.0, "num_beams": 4}),
    ("generation_config.json", {"transformers_version": "99.0.0"}),
    ("tokenizer_config.json", {"tokenizer_class": "FutureTokenizer", "model_max_length": 1e30}),
    ("tokenizer_config.json", {"tokenizer_class": "TokenizersBackend", "auto_map": {"AutoTokenizer": ["a.B", None]}}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"256": TOKEN | {"__type": "AddedToken", "_private": 1}}}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"256": "<|im_start|>"}}),
    ("tokenizer_config.json", {"extra_special_tokens": ["<|im_start|>", "<x>"]}),
    ("tokenizer_config.json", {"extra_special_tokens": [TOKEN]}),
    ("tokenizer_config.json", {"extra_special_tokens": {"image_token": "<img>"}}),
]
REFUSED = [
    ("config.json", {"quantization_config": {"quant_method": "future"}}, "stored as future is not known here; take"),
    (
        "config.json",
        {"quantization_config": {"quant_method": "aqlm"}},
        "stored as aqlm has a codebook .*int4",
    ),
    ("config.json", {"quantization_config": {"group_size": 64, "bits": 4}}, "names no quant_method, as MLX writes it"),
    ("config.json", {"compression_config": {"quant_method": "sparse"}}, "stored as sparse is not known here"),
    ("config.json", {"quantization_config": "int8"}, "config.json was not understood"),
    ("config.json", {"bos_token_id": [1, 2]}, "config.json was not understood: .*bos_token_id"),
    ("config.json", {"initializer_range": float("nan")}, "config.json was not understood: .*initializer_range"),
    ("config.json", {"dtype": "float99"}, "config.json was not understood"),
]


def changed(source: Path, target: Path, file: str, values: dict[str, Any]) -> Path:
    shutil.copytree(source, target)
    (target / file).write_text(json.dumps(json.loads((target / file).read_text()) | values))
    return target


def logits(directory: Path) -> torch.Tensor:
    check_files(directory, trust_remote_code=False)
    config = EngineConfig(device="cpu", dtype="float32", cache_dir=str(directory))
    loaded = load(config, directory, lambda *_: None)
    assert (loaded.quantize, loaded.eos_token_ids) == ("none", {EOS_ID})
    with torch.inference_mode():
        found: torch.Tensor = loaded.model(input_ids=torch.tensor([[5, 9, 17, 33]])).logits
    return found


@pytest.mark.parametrize(("file", "values"), HARMLESS, ids=[", ".join(values) for _, values in HARMLESS])
def test_it_stops_nothing_and_changes_nothing(
    file: str, values: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    directory = changed(tiny_llama, tmp_path / "model", file, values)
    assert torch.equal(logits(directory), logits(tiny_llama))
    assert Tokenizer.load(directory).encode("<|im_start|>a", add_special_tokens=True)[0] == 256


@pytest.mark.parametrize(("file", "values", "sentence"), REFUSED)
def test_what_cannot_be_meant_is_one_sentence(
    file: str, values: dict[str, Any], sentence: str, tiny_llama: Path, tmp_path: Path
) -> None:
    directory = changed(tiny_llama, tmp_path / "model", file, values)
    with pytest.raises(BadModel, match=sentence) as error:
        logits(directory)
    assert "\n" not in str(error.value)


def test_modelopt_s_own_file_says_how_weights_are_stored(tmp_path: Path) -> None:
    """Its older versions wrote nothing to config.json."""
    directory, expected = copied("modelopt-nvfp4", tmp_path), weight(FORMATS / "modelopt-nvfp4", tmp_path)
    config = json.loads((directory / "config.json").read_text())
    form = config.pop("quantization_config")
    (directory / "config.json").write_text(json.dumps(config))
    own = {"producer": form["producer"], "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    (directory / "hf_quant_config.json").write_text(json.dumps(own))
    assert torch.equal(weight(directory, tmp_path), expected)
    (directory / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "W8A8_SQ"}}))
    with pytest.raises(BadModel, match="quant_algo W8A8_SQ is not read"):
        weight(directory, tmp_path)


def test_a_form_without_a_name_is_bitsandbytes(tmp_path: Path) -> None:
    """As older versions of transformers have saved it."""
    directory, expected = copied("bitsandbytes-nf4", tmp_path), weight(FORMATS / "bitsandbytes-nf4", tmp_path)
    config = json.loads((directory / "config.json").read_text())
    del config["quantization_config"]["quant_method"]
    (directory / "config.json").write_text(json.dumps(config))
    assert torch.equal(weight(directory, tmp_path), expected)


def copied(name: str, directory: Path) -> Path:
    return shutil.copytree(FORMATS / name, directory / name)


def weight(directory: Path, cache_dir: Path) -> torch.Tensor:
    """A quantised weight of the model, as it computes with it."""
    loaded = load(EngineConfig(device="cpu", dtype="float32", cache_dir=str(cache_dir)), directory, lambda *_: None)
    return loaded.model.get_parameter("model.layers.0.mlp.up_proj.weight")


def test_an_older_name_of_the_stored_form_is_known(tmp_path: Path) -> None:
    """compressed-tensors before 0.7 wrote `compression_config`, without the version."""
    shutil.copytree(FORMATS / "compressed_tensors-w4a16", tmp_path / "model")
    config = json.loads((FORMATS / "compressed_tensors-w4a16" / "config.json").read_text())
    config["compression_config"] = config.pop("quantization_config")
    del config["compression_config"]["version"], config["compression_config"]["quant_method"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    engine = EngineConfig(device="cpu", dtype="float32", cache_dir=str(tmp_path))
    loaded = load(engine, tmp_path / "model", lambda *_: None)
    expected = load_file(FORMATS / "compressed_tensors-w4a16" / "expected.safetensors")
    found = loaded.model(input_ids=expected["input_ids"][None]).logits[0]
    assert (loaded.quantize, torch.allclose(found, expected["logits"], atol=1e-4)) == ("compressed-tensors", True)
