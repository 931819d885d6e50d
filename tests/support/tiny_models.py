"""Tiny random checkpoints of real model families with a real byte-level tokenizer, as a user would have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE = 320
EOS_ID = 257
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 256,
    "eos_token_id": EOS_ID,
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_OLD = {k: v for k, v in _BASE.items() if k not in {"num_key_value_heads", "head_dim"}}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _BASE,
    "qwen2": _BASE,
    "qwen3": _BASE,
    "mistral": _BASE | {"sliding_window": 8},
    "gemma2": _BASE | {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": _BASE | {"sliding_window": 8, "query_pre_attn_scalar": 16, "num_hidden_layers": 6},
    "phi3": _BASE,
    "gpt_oss": _BASE | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "mixtral": _BASE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": _BASE | _MOE,
    # Keys and values of different head sizes; what it adds to its config is small here and must all be said.
    "deepseek_v3": _BASE
    | {
        "head_dim": 8,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 12,
        "v_head_dim": 12,
        "n_shared_experts": 1,
    },
    "gpt2": {
        "vocab_size": VOCAB_SIZE,
        "n_embd": 64,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 512,
        "bos_token_id": 256,
        "eos_token_id": EOS_ID,
    },
    "gpt_neox": _OLD,
    "stablelm": _BASE,
    "gemma4_text": _BASE
    | {"sliding_window": 8, "vocab_size_per_layer_input": VOCAB_SIZE, "hidden_size_per_layer_input": 16},
    "olmo2": _BASE,
    "granite": _BASE,
    "smollm3": _BASE,
    "cohere": _BASE,
    "glm4": _BASE,
    "opt": _OLD | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "starcoder2": _BASE,
    "ministral": _BASE | {"sliding_window": 8},
    "exaone4": _BASE | {"sliding_window": 8, "sliding_window_pattern": 2},
    "biogpt": _OLD,
    "nemotron": _BASE,
    "gemma": _BASE,
    "phi": _OLD,
    "cohere2": _BASE | {"sliding_window": 8},
    "olmo3": _BASE | {"sliding_window": 8},
    "olmoe": _BASE | {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": _BASE | _MOE | {"shared_expert_intermediate_size": 32},
}

_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_BARE = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "bos_token_id": 256, "eos_token_id": EOS_ID}
# Families that slots compute wrongly: alibi, state space, convolution, hybrids, chunked attention.
CACHED_FAMILIES: dict[str, dict[str, Any]] = {
    "bloom": _BARE | {"n_layer": 3, "n_head": 4},
    "falcon": _BARE
    | {"num_hidden_layers": 3, "num_attention_heads": 4, "new_decoder_architecture": True, "num_kv_heads": 2}
    | {"alibi": False, "max_position_embeddings": 512},
    "mpt": _BARE | {"d_model": 64, "n_heads": 4, "n_layers": 3, "max_seq_len": 512, "expansion_ratio": 2},
    "mamba": _BARE | {"num_hidden_layers": 2, "state_size": 8},
    "falcon_mamba": _BARE | {"num_hidden_layers": 2, "state_size": 8},
    "mamba2": _BARE
    | {"num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 1}
    | {"chunk_size": 16},
    "qwen3_next": _BASE | _MOE | _LINEAR | {"shared_expert_intermediate_size": 32},
    "qwen3_5_text": _BASE | _LINEAR,
    "olmo_hybrid": _BASE | _LINEAR,
    "lfm2": _BASE | {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "granitemoehybrid": _BASE
    | {"mamba_n_heads": 8, "mamba_d_head": 16, "num_local_experts": 0, "shared_intermediate_size": 64}
    | {"mamba_chunk_size": 16}
    | {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "jamba": _BASE
    | {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 8, "use_mamba_kernels": False}
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    | {"num_experts": 2},
    "falcon_h1": _BASE
    | {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}
    | {"num_hidden_layers": 2},
    "bamba": _BASE
    | {"mamba_n_heads": 8, "mamba_d_head": 16, "attn_layer_indices": [1, 3], "mamba_d_state": 8}
    | {"mamba_chunk_size": 16},
    "nemotron_h": _BASE
    | {"hybrid_override_pattern": "M*M*", "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 8}
    | {"n_groups": 1, "chunk_size": 16},
    "llama4_text": _BASE | {"attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 64},
    "deepseek_v4": _BASE
    | {"num_hidden_layers": 3, "num_experts_per_tok": 2, "n_routed_experts": 4, "moe_intermediate_size": 32}
    | {"sliding_window": 8, "q_lora_rank": 16, "o_lora_rank": 16, "index_head_dim": 16, "qk_rope_head_dim": 8},
}
# What the trial must find of them. Their code starts a second chunk from an empty state;
IN_ONE_PIECE = frozenset({"mamba", "falcon_mamba", "jamba"})
# their cache has layers that cannot be joined.
ONE_BY_ONE = frozenset({"deepseek_v4"})
ALL_FAMILIES = FAMILIES | CACHED_FAMILIES


def build(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random float32 model; the same weights for the same arguments. Larger weights than usual, so that greedy
    choices are far apart and do not flip with the order of a sum; and an output layer of its own, since one that is
    the input's answers with the token it was given."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{"tie_word_embeddings": False} | ALL_FAMILIES[family] | changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "norm" not in name:
                parameter.normal_(0.0, 0.15)
    return model


def every_expert(family: str) -> dict[str, int]:
    """Changes after which each token takes every expert, so that no rounding turns a router's choice; {} if dense."""
    sizes = ALL_FAMILIES[family]
    chosen = sizes.get("num_experts_per_tok")
    counts = ("num_experts", "num_local_experts", "n_routed_experts")
    return {} if chosen is None else {name: chosen for name in counts if name in sizes}


def save(family: str, directory: Path, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint directory: config, safetensors, tokenizer.json, chat template, generation config."""
    build(family, seed, **changes).save_pretrained(directory)
    write_tokenizer(directory)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS_ID]}))
    return directory


def write_tokenizer(directory: Path) -> None:
    """Byte-level, no merges: token id = byte's place in the alphabet; ids 256 to 259 are control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    for text in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>"):
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": "<|im_start|>",
                "eos_token": "<|im_end|>",
                "pad_token": "<|pad|>",
                "chat_template": CHATML,
                "tokenizer_class": "PreTrainedTokenizerFast",
            }
        )
    )
