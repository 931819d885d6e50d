"""Models of random weights, made on the device, and the runner that the engine chooses for them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from handler.model.device import choose_dtype
from handler.model.loader import LoadedModel
from handler.runners.choice import choose_runner
from handler.runners.limits import Limits
from handler.runners.runner import Runner
from handler.seam.config import EngineConfig
from handler.seam.status import StatusBoard
from tools.gpu_check.setting import Setting

# Llama 3.1 8B.
_LLAMA_8B: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
# Gemma 2 9B, of which four layers say all: softcapped scores, heads of 256.
_GEMMA2: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 3584,
    "intermediate_size": 14_336,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "max_position_embeddings": 8192,
}
_TINY: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}
_SMALL = _TINY | {"pad_token_id": 0, "bos_token_id": 256, "eos_token_id": 257}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 2, "num_experts": 2, "moe_intermediate_size": 32}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
# One family for each way to run a model. Each token takes every expert, so that rounding turns no router's choice.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _SMALL,
    "gemma2": _SMALL | {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "gpt_oss": _SMALL | _EXPERTS | {"sliding_window": 8},
    "mixtral": _SMALL | _EXPERTS,
    "cohere": _SMALL,
    "falcon": {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False, "max_position_embeddings": 4096}
    | {"bos_token_id": 256, "eos_token_id": 257},
    "qwen3_next": _SMALL
    | _EXPERTS
    | _LINEAR
    | {"linear_value_head_dim": 8, "shared_expert_intermediate_size": 32, "num_hidden_layers": 4},
}


def sizes_8b(setting: Setting, layers: int = 32) -> dict[str, Any]:
    """The configuration of Llama 3.1 8B, of `layers` layers."""
    return _TINY if setting.tiny else _LLAMA_8B | {"num_hidden_layers": layers}


def sizes_gemma2(setting: Setting) -> dict[str, Any]:
    """A configuration with softcapped scores."""
    return _TINY | {"sliding_window": 512} if setting.tiny else _GEMMA2


def build(family: str, sizes: dict[str, Any], std: float | None = None) -> PreTrainedModel:
    """A random model on the GPU in its usual dtype: made there, or with `std` on CPU."""
    device = torch.device("cuda")
    dtype = choose_dtype("auto", device)
    if std is not None:
        moved: Any = build_on_cpu(family, sizes, std)
        return cast(PreTrainedModel, moved.to("cuda", dtype))
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(_config(family, sizes), dtype=dtype)
    return cast(PreTrainedModel, model.eval())


def build_on_cpu(family: str, sizes: dict[str, Any], std: float) -> PreTrainedModel:
    """A random float32 model; `std` is larger than usual, so that greedy choices of tiny models are far apart."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(family, sizes), dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "norm" not in name:
                parameter.normal_(0.0, std)
    return cast(PreTrainedModel, model)


def _config(family: str, sizes: dict[str, Any]) -> Any:
    return AutoConfig.for_model(family, **{"tie_word_embeddings": False} | sizes)


def loaded(model: PreTrainedModel) -> LoadedModel:
    """As the loader returns it."""
    text = model.config.get_text_config()
    return LoadedModel(
        model=model,
        text_config=text,
        eos_token_ids=frozenset({257}),
        dtype=model.dtype,
        device=model.device,
        quantize="none",
        max_position_embeddings=text.max_position_embeddings,
    )


def serve_config(setting: Setting, **changes: Any) -> EngineConfig:
    """An engine's configuration, with its files in a folder of its own."""
    folder = folder_of(setting)
    threads = 1 if setting.tiny else 0
    paths = {"socket_path": str(folder / "socket"), "board_path": str(folder / "board"), "cache_dir": str(folder)}
    return EngineConfig(**({"num_threads": threads} | paths | changes))


def folder_of(setting: Setting) -> Path:
    """A new folder in the scratch folder."""
    return Path(tempfile.mkdtemp(prefix="engine", dir=setting.scratch))


def choose(config: EngineConfig, model: PreTrainedModel) -> tuple[Runner, Limits, StatusBoard]:
    """The runner that a start would choose. Raises UnsupportedModel."""
    board = StatusBoard(Path(config.board_path), create=True)
    runner, limits = choose_runner(config, loaded(model), board)
    return runner, limits, board


def decoding_of(runner: Runner) -> str:
    """How decode steps run, in the runner's words."""
    return str(getattr(runner, "decoding", runner.name))
