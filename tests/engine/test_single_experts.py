"""Experts stored one by one load into models that have them in one tensor, dense and quantised, whatever the family."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from handler.model.loader import load
from handler.seam.config import EngineConfig

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}
FAMILIES = ["gpt_oss", "mixtral", "granitemoe", "llama4_text", "qwen3_moe"]
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
FORM = {
    "quant_method": "compressed-tensors",
    "version": "0.20.1",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT8}},
}


def tiny(family: str) -> Any:
    """A random model whose matrices of experts are whole numbers times 2 ** -9, which int8 holds exactly."""
    torch.manual_seed(3)
    sizes = SIZES | {"num_experts": 3, "moe_intermediate_size": 96, "intermediate_size_mlp": 96, "pad_token_id": 0}
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            parameter.data = torch.randint(-127, 128, parameter.shape) / 512
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.1)
    return model


def one_by_one(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights of the model with a linear layer for each matrix of an expert, outputs first."""
    modules = dict(model.named_modules())
    for name, weight in model.state_dict().items():
        path, _, parameter = name.rpartition(".")
        if not path.endswith(".experts"):
            yield name, weight
            continue
        matrix, part = parameter.removesuffix("_bias"), "bias" if parameter.endswith("_bias") else "weight"
        is_transposed = getattr(modules[path], "is_transposed", "llama4" in model.config.model_type)
        outputs = weight.mT if is_transposed and part == "weight" else weight
        for i, expert in enumerate(outputs):
            if matrix != "gate_up_proj":
                yield f"{path}.{i}.{matrix}.{part}", expert
                continue
            in_turns = getattr(modules[path], "is_concatenated", True) is False
            gate, up = (expert[::2], expert[1::2]) if in_turns else expert.chunk(2)
            yield f"{path}.{i}.gate_proj.{part}", gate
            yield f"{path}.{i}.up_proj.{part}", up


def written(model: Any, directory: Path, form: dict[str, Any] | None) -> Path:
    """The checkpoint in the files' own names; with a `form`, matrices of experts are int8."""
    directory.mkdir()
    tensors: dict[str, Tensor] = {}
    for name, weight in one_by_one(model):
        name = name.replace(".mlp.", ".block_sparse_moe.") if model.config.model_type == "mixtral" else name
        if form is not None and ".experts." in name and name.endswith(".weight"):
            tensors[name] = (weight * 512).round().to(torch.int8)
            tensors[f"{name}_scale"] = torch.full((len(weight), 1), 1 / 512)
        else:
            tensors[name] = weight
    save_file({name: each.contiguous() for name, each in tensors.items()}, directory / "model.safetensors")
    config = model.config.to_dict() | ({} if form is None else {"quantization_config": form})
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("form", [None, FORM], ids=["dense", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_experts_stored_one_by_one_are_the_models(family: str, form: dict[str, Any] | None, tmp_path: Path) -> None:
    model = tiny(family)
    directory = written(model, tmp_path / "model", form)
    loaded = load(EngineConfig(device="cpu", dtype="float32", cache_dir=str(tmp_path)), directory, lambda *_: None)
    ids = torch.arange(12)[None] * 7 % 96
    with torch.inference_mode():
        found, expected = (each(input_ids=ids, use_cache=False).logits for each in (loaded.model, model))
    assert torch.allclose(found, expected, atol=1e-5), (found - expected).abs().max()
