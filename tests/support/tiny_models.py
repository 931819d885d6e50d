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
}


def build(family: str, seed: int = 0) -> PreTrainedModel:
    """A random float32 model; the same weights for the same arguments. Larger weights than usual, so that greedy
    choices are far apart and do not flip with the order of a sum."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "norm" not in name:
                parameter.normal_(0.0, 0.15)
    return model


def save(family: str, directory: Path, seed: int = 0) -> Path:
    """A checkpoint directory: config, safetensors, tokenizer.json, chat template, generation config."""
    build(family, seed).save_pretrained(directory)
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
