"""A tiny random Llama as a GGUF file, with the byte-level vocabulary of `tiny_models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import pre_tokenizers

from tests.support.tiny_models import EOS_ID

_WIDTH, _INNER, _NUM_LAYERS, _NUM_HEADS = 32, 64, 2, 2
_CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>")

Tensors = dict[str, np.ndarray[Any, Any]]


def tensors(num_tokens: int) -> Tensors:
    """Every tensor of the file, by llama.cpp's names."""
    draw = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray[Any, Any]:
        return draw.normal(0, 0.15, shape).astype(np.float32)

    found = {"token_embd.weight": matrix(num_tokens, _WIDTH), "output.weight": matrix(num_tokens, _WIDTH)}
    found["output_norm.weight"] = np.ones(_WIDTH, np.float32)
    for i in range(_NUM_LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            found[f"blk.{i}.{name}.weight"] = matrix(_WIDTH, _WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            found[f"blk.{i}.{name}.weight"] = matrix(_INNER, _WIDTH)
        found[f"blk.{i}.ffn_down.weight"] = matrix(_WIDTH, _INNER)
        for name in ("attn_norm", "ffn_norm"):
            found[f"blk.{i}.{name}.weight"] = np.ones(_WIDTH, np.float32)
    return found


def write(
    path: Path,
    change: Callable[[Tensors], None] = lambda _: None,
    ids: Mapping[str, int] | None = None,
    templates: Mapping[str, str] | None = None,
) -> Path:
    """`change` edits the tensors; `ids` are further special token ids, as `eot`; `templates` are named ones."""
    # transformers reads no such file without a merge.
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *_CONTROL, "ĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(_NUM_LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_NUM_HEADS)
    writer.add_head_count_kv(_NUM_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in _CONTROL else 1 for token in tokens])
    writer.add_token_merges(["Ġ Ġ"])
    for name, token_id in ({"eos": EOS_ID} | dict(ids or {})).items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token_id)
    if templates:
        writer.add_chat_template([{"name": name, "template": text} for name, text in templates.items()])
    held = tensors(len(tokens))
    change(held)
    for name, tensor in held.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
