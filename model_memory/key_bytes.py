"""Memory of keys and values, from `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_memory.weight_counts import head_size, num_heads, num_kv_heads, num_layers, text_values

# In 8 bits, keys and values of a head have a scale, float32.
SCALE_BYTES = 4
_ATTENTION_LAYERS = ("full_attention", "sliding_attention", "attention", "chunked_attention")


def key_bytes_per_token(config: Mapping[str, Any], itemsize: int = 2) -> int:
    """Bytes of keys and values for each token; the state of recurrent layers does not grow.

    A sliding window counts as full attention, which can only overestimate. Latent attention (MLA) counts as expanded
    keys and values, as transformers stores it. An `itemsize` of 1 means codes with scales. Raises what
    `count_weights` raises.
    """
    text = text_values(config)
    kinds = text.get("layer_types")
    layers = sum(kind in _ATTENTION_LAYERS for kind in kinds) if kinds else num_layers(text)
    scales = 2 * SCALE_BYTES if itemsize == 1 else 0
    if "qk_nope_head_dim" in text:
        key = int(text["qk_nope_head_dim"]) + int(text["qk_rope_head_dim"])
        return layers * num_heads(text) * (itemsize * (key + int(text["v_head_dim"])) + scales)
    return layers * num_kv_heads(text) * (2 * itemsize * head_size(text) + scales)


def max_positions(config: Mapping[str, Any]) -> int:
    """The longest sequence that `config.json` states, in tokens; 0 if it states none."""
    text = text_values(config)
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return next((found for name in names if isinstance(found := text.get(name), int) and found > 0), 0)
