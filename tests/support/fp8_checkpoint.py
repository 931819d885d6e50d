"""A tiny fp8 checkpoint in transformers' form, as DeepSeek, Qwen and Mistral publish theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support import tiny_models


def save_fp8(directory: Path, block: int | None, family: str = "llama") -> Any:
    """Write one with square blocks of `block` weights, or a scale for each tensor; returns the model it stands for."""
    stock = tiny_models.build(family, num_hidden_layers=2, intermediate_size=128)
    stock.save_pretrained(directory)
    weights = {}
    for name, weight in stock.state_dict().items():
        weights[name] = weight.to(torch.bfloat16)
        if name.endswith("proj.weight"):
            scale = weight.abs().max() / 448
            weights[name] = (weight / scale).to(torch.float8_e4m3fn)
            shape = [size // block for size in weight.shape] if block else []
            weights[f"{name}_scale_inv"] = scale.expand(shape).contiguous()
            stock.get_parameter(name).data = (weights[name].float() * scale).to(torch.bfloat16).float()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    sizes = [block, block] if block else None
    form = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": sizes}
    (directory / "config.json").write_text(json.dumps(config | {"quantization_config": form}))
    tiny_models.write_tokenizer(directory)
    return stock
