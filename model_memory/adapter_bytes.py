"""Memory that a GPU sets aside for adapters, from `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_memory.weight_counts import (
    dense_width,
    head_size,
    hidden_size,
    is_ungated,
    num_heads,
    num_kv_heads,
    num_layers,
    num_sparse_layers,
    shared_width,
    text_values,
)

# Families that keep query, key and value in one module, and the two first matrices of the feed-forward part. A slot
# there has the rank of all parts together, for all inputs and outputs.
_FUSED_ATTENTION = frozenset(("codegen", "phi3", "phi4_multimodal"))
_FUSED_FEED = frozenset(
    (
        "dots3_note_text",
        "glm",
        "glm4",
        "glm4v_text",
        "glm_image_text",
        "glm_ocr_text",
        "minimax_m3_vl_text",
        "phi3",
        "phi4_multimodal",
    )
)


def adapter_bytes(config: Mapping[str, Any], num_adapters: int, max_rank: int, itemsize: int = 2) -> int:
    """Bytes of `num_adapters` slots: for each linear layer of K inputs and N outputs, `max_rank * (K + N)` numbers.

    Experts, embeddings and the output layer have no slots. Latent attention counts as plain. Raises what
    `count_weights` raises.
    """
    text = text_values(config)
    hidden, layers, sparse = hidden_size(text), num_layers(text), num_sparse_layers(text)
    queries, keys = num_heads(text) * head_size(text), num_kv_heads(text) * head_size(text)
    family = str(text.get("model_type"))
    output = hidden + queries
    parts = 3 * (hidden + queries + 2 * keys) if family in _FUSED_ATTENTION else output + 2 * (hidden + keys)
    width = dense_width(text)
    fused, apart = 2 * (hidden + 2 * width) + hidden + width, (2 if is_ungated(text) else 3) * (hidden + width)
    dense = fused if family in _FUSED_FEED else apart
    shared = 3 * (hidden + shared_width(text)) if shared_width(text) else 0
    of_layers = layers * (parts + output) + (layers - sparse) * dense + sparse * shared
    return num_adapters * max_rank * itemsize * of_layers
