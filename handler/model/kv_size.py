"""KV memory of one token, from a model's configuration."""

from __future__ import annotations

from typing import Any

import torch


def kv_bytes_per_token(text_config: Any, dtype: torch.dtype) -> int:
    """Upper bound in bytes, from which the token budget follows: every layer counts as an attention layer.

    A model without heads counts as one head of its width. Layers may differ (Gemma 4).
    """
    return sum(_numbers_per_token(layer) for layer in text_config.per_layer_config[:]) * dtype.itemsize


def _numbers_per_token(config: Any) -> int:
    """Elements of keys and values of one layer. If key and value heads differ in size, pages pad both to the larger."""
    num_heads = getattr(config, "num_attention_heads", None) or 1
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    if getattr(config, "qk_nope_head_dim", None):
        # In multi-head latent attention (DeepSeek), `head_dim` is only the rotary part of a key.
        head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
    widest = max(head_dim, getattr(config, "v_head_dim", None) or 0)
    return 2 * int(num_kv_heads) * int(widest)
