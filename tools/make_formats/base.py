"""The dense model behind every fixture, and what a plain float32 model says about one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

FAMILY = "llama"
SIZES: Mapping[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Half as wide, for groups of up to 64.
SMALL: Mapping[str, Any] = {"hidden_size": 64, "head_dim": 32}
# Of the input's length in `expected.safetensors`; of each quantised weight it holds the first rows.
_NUM_TOKENS, _NUM_ROWS = 16, 2


@torch.no_grad()
def save(directory: Path, family: str = FAMILY, **changes: Any) -> Path:
    """Write a random model in bfloat16, the same for the same arguments; `changes` are values of its config.json.

    Weights are larger than usual, so that greedy choices are far apart and do not flip with the order of a sum.
    """
    torch.manual_seed(17)
    config = AutoConfig.for_model(family, **{**SIZES, **changes})
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0.0, 0.15)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.to(torch.bfloat16).save_pretrained(directory)
    return directory


def weights(directory: Path) -> dict[str, Tensor]:
    """The weights of the checkpoint in `directory`, by name."""
    return dict(load_file(directory / "model.safetensors"))


def write_checkpoint(base: Path, target: Path, state: Mapping[str, Tensor], form: Mapping[str, Any]) -> None:
    """Write `state` and config.json of `base` with `form` as its quantization_config to `target`.

    For libraries whose own `save` wants more than the tensors.
    """
    config = json.loads((base / "config.json").read_text("utf-8")) | {"quantization_config": dict(form)}
    embeddings = next(tensor for name, tensor in state.items() if "embed" in name or "wte" in name)
    config["dtype"] = str(embeddings.dtype).removeprefix("torch.")
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def write_expected(base: Path, target: Path, dense: Mapping[str, Tensor]) -> None:
    """Write `target`/expected.safetensors of the model in `base` with the weights `dense` by name, in float32.

    `dense` has each quantised weight as the library of the form dequantises it, `[N, K]` or experts `[E, N, K]`, by its
    name in the model. The file has `input_ids` int64 [16], `logits` float32 [16, vocabulary], and for each of these
    weights `rows.<name>` float32, its first two outputs `[..., 2, K]`.
    """
    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    for name, weight in dense.items():
        model.get_parameter(name).copy_(weight)
    input_ids = torch.arange(_NUM_TOKENS) * 37 % model.config.get_text_config().vocab_size
    logits = model(input_ids=input_ids[None], use_cache=False).logits[0]
    rows = {f"rows.{name}": weight[..., :_NUM_ROWS, :].float().contiguous() for name, weight in dense.items()}
    save_file({"input_ids": input_ids, "logits": logits.contiguous(), **rows}, target / "expected.safetensors")


def write_by_transformers(
    config: Any, sizes: Mapping[str, Any], target: Path, dequantised: Callable[[Any], Tensor]
) -> None:
    """A model of `sizes` that transformers quantises as `config` says and saves; `dequantised` undoes a weight."""
    with TemporaryDirectory() as temporary:
        base = save(Path(temporary), **sizes)
        options = {"dtype": torch.bfloat16, "device_map": "cpu", "quantization_config": config}
        model: Any = AutoModelForCausalLM.from_pretrained(base, **options)
        linears = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear)}
        dense = {f"{name}.weight": dequantised(each.weight) for name, each in linears.items() if name != "lm_head"}
        model.save_pretrained(target)
        write_expected(base, target, dense)
