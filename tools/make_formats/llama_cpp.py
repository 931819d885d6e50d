"""GGUF by llama.cpp's own quantiser, over a file that the package gguf writes.

The program is LLAMA_QUANTIZE; the fixtures are of the llama.cpp in the sources of llama-cpp-python 0.3.36:
`cmake -B build vendor/llama.cpp && cmake --build build --target llama-quantize`. Its k-quants take rows of 256 weights.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig

from tools.make_formats import base as dense_model
from tools.make_formats.base import write_expected
from tools.make_formats.expected import write_expected_of_files

LIBRARIES = ("gguf",)

_TOKENS = ["<s>", "</s>", *map(chr, range(33, 126)), "!!"]
_NAMES = {
    "model.embed_tokens": "token_embd",
    "lm_head": "output",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
}
_GPT_OSS_NAMES = _NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "mlp.router": "ffn_gate_inp",
    "self_attn.sinks": "attn_sinks",
}
_SIZES: Mapping[str, Any] = {"hidden_size": 256, "intermediate_size": 128, "head_dim": 32, "tie_word_embeddings": True}
_MOE: Mapping[str, Any] = {
    "head_dim": 32,
    "hidden_size": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}

_GPT_OSS: Mapping[str, Any] = {
    "head_dim": 32,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "sliding_window": 4,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
    },
}
# In 16 bits.
_SMALLER: Mapping[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}

Tensors = dict[str, np.ndarray[Any, Any]]


def _write(family: str, sizes: Mapping[str, Any], kind: str, types: Mapping[str, str], _: Path, target: Path) -> None:
    """A file of `kind`, a type of llama-quantize; `types` are those of single tensors."""
    with TemporaryDirectory() as temporary:
        base = dense_model.save(Path(temporary, "base"), family, **sizes)
        given = Path(temporary, "given.gguf")
        config = AutoConfig.from_pretrained(base)
        _write_gguf(given, config, _to_llama_cpp(dense_model.weights(base), config))
        options = [part for name, each in types.items() for part in ("--tensor-type", f"{name}={each}")]
        program = os.environ.get("LLAMA_QUANTIZE", "llama-quantize")
        subprocess.run([program, *options, given, target / "model.gguf", kind, "1"], check=True, capture_output=True)
        (target / "config.json").write_bytes((base / "config.json").read_bytes())
        dense = _dequantised(target / "model.gguf", config)
        if family == "gpt_oss":  # which keeps its experts as [E, K, N]
            turned = {name: weight.mT if ".experts." in name else weight for name, weight in dense.items()}
            write_expected_of_files(base, target, dense, stored=turned)
        else:
            write_expected(base, target, dense)


def _write_gguf(path: Path, config: Any, tensors: Tensors) -> None:
    names = {"qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss"}
    writer = gguf.GGUFWriter(path, names.get(config.model_type, config.model_type))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "qwen3_moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if config.model_type == "gpt_oss":
        _add_gpt_oss(writer, config)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o" if config.model_type == "gpt_oss" else "gpt-2")
    writer.add_token_list(_TOKENS)
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token in _TOKENS])
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_gpt_oss(writer: Any, config: Any) -> None:
    """As `GptOssModel` of llama.cpp's converter."""
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.intermediate_size)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    writer.add_rope_scaling_orig_ctx_len(config.rope_parameters["original_max_position_embeddings"])


def _to_llama_cpp(weights: Mapping[str, Tensor], config: Any) -> Tensors:
    """As llama.cpp's converter: its names, the rotary halves of a Llama as pairs, experts in one tensor."""
    if config.model_type == "gpt_oss":
        return {name: part.float().contiguous().numpy() for name, part in _gpt_oss_parts(weights)}
    found: Tensors = {}
    experts: dict[str, list[Tensor]] = {}
    for name, weight in weights.items():
        if ".experts." in name:
            part = name.split(".")[-2].removesuffix("_proj")
            experts.setdefault(f"blk.{name.split('.')[2]}.ffn_{part}_exps.weight", []).append(weight.float())
            continue
        moved = weight.float() if (order := _order(name, len(weight), config)) is None else weight.float()[order]
        found[_name(name)] = moved.numpy()
    # safetensors lists names by their letters, and there are fewer than ten experts.
    return found | {name: torch.stack(parts).numpy() for name, parts in experts.items()}


def _gpt_oss_parts(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Rows of gate and up projections, which take turns in the model, apart; matrices as `[E, N, K]`."""
    for name, weight in weights.items():
        if ".experts." not in name:
            yield _name(name, _GPT_OSS_NAMES) + (".weight" if name.endswith("sinks") else ""), weight
            continue
        block, part = f"blk.{name.split('.')[2]}", name.rpartition(".")[2]
        suffix = "bias" if part.endswith("_bias") else "weight"
        rows = weight if suffix == "bias" else weight.mT
        if part.startswith("down"):
            yield f"{block}.ffn_down_exps.{suffix}", rows
        else:
            yield f"{block}.ffn_gate_exps.{suffix}", rows[:, ::2]
            yield f"{block}.ffn_up_exps.{suffix}", rows[:, 1::2]


def _order(name: str, num_rows: int, config: Any) -> Tensor | None:
    if config.model_type != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return None
    return torch.arange(num_rows).view(-1, 2, config.head_dim // 2).transpose(1, 2).flatten()


def _name(name: str, names: Mapping[str, str] = _NAMES) -> str:
    stem, dot, suffix = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
    if not stem.startswith("model.layers."):
        return f"{names[stem]}{dot}{suffix}"
    number, _, rest = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{names[rest]}{dot}{suffix}"


def _dequantised(path: Path, config: Any) -> dict[str, Tensor]:
    """The weights of the file by the model's names, as gguf dequantises them."""
    held = {
        str(tensor.name): torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in gguf.GGUFReader(path).tensors
        if tensor.tensor_type not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
    }
    found = {}
    for number in range(config.num_hidden_layers):
        layer, block = f"model.layers.{number}", f"blk.{number}"
        for name in [each for each in _NAMES if not each.startswith(("model", "lm_head"))]:
            if (weight := held.get(f"{block}.{_NAMES[name]}.weight")) is not None:
                order = _order(f"{name}.weight", len(weight), config)
                found[f"{layer}.{name}.weight"] = weight if order is None else weight[order.argsort()]
        if f"{block}.ffn_down_exps.weight" in held:
            gate, up, down = (held[f"{block}.ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
            takes_turns = config.model_type == "gpt_oss"
            both = torch.stack([gate, up], 2).flatten(1, 2) if takes_turns else torch.cat([gate, up], 1)
            found |= {f"{layer}.mlp.experts.gate_up_proj": both}
            found |= {f"{layer}.mlp.experts.down_proj": down}
    ends = {name: held.get(f"{_NAMES[name]}.weight") for name in ("model.embed_tokens", "lm_head")}
    return found | {f"{name}.weight": weight for name, weight in ends.items() if weight is not None}


_K_QUANTS = {
    "attn_q": "q2_k",
    "attn_k": "q3_k",
    "attn_v": "q5_k",
    "attn_output": "q5_1",
    "ffn_gate": "q6_k",
    "ffn_up": "iq4_xs",
    "ffn_down": "q5_0",
}
_OTHERS = {
    "attn_q": "tq2_0",
    "attn_k": "tq1_0",
    "attn_v": "iq3_s",
    "attn_output": "iq4_nl",
    "ffn_gate": "q4_1",
    "ffn_up": "q4_0",
    "ffn_down": "mxfp4",
}
WRITERS = {
    "llama_cpp-q4_k_m": partial(_write, "llama", _SIZES, "Q4_K_M", {}),
    "llama_cpp-k-quants": partial(_write, "llama", _SIZES, "Q5_0", _K_QUANTS),
    "llama_cpp-others": partial(_write, "llama", _SIZES, "Q8_0", _OTHERS),
    "llama_cpp-experts": partial(_write, "qwen3_moe", _MOE, "MXFP4_MOE", {}),
    "llama_cpp-gpt-oss": partial(_write, "gpt_oss", _GPT_OSS, "MXFP4_MOE", {}),
    "llama_cpp-gpt-oss-dense": partial(_write, "gpt_oss", {**_GPT_OSS, **_SMALLER}, "F16", {}),
}
