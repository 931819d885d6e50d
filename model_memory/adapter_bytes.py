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


def adapter_bytes(config: Mapping[str, Any], num_adapters: int, max_rank: int, itemsize: int = 2) -> int:
    """Bytes of `num_adapters` slots: for each linear layer of K inputs and N outputs, `max_rank * (K + N)` numbers.

    Experts, embeddings and the output layer have no slots. Latent attention counts as plain. Raises what
    `count_weights` raises.
    """
    text = text_values(config)
    hidden, layers, sparse = hidden_size(text), num_layers(text), num_sparse_layers(text)
    queries, keys = num_heads(text) * head_size(text), num_kv_heads(text) * head_size(text)
    attention = 2 * (hidden + queries) + 2 * (hidden + keys)
    matrices = 2 if is_ungated(text) else 3
    dense = matrices * (hidden + dense_width(text))
    shared = 3 * (hidden + shared_width(text)) if shared_width(text) else 0
    return num_adapters * max_rank * itemsize * (layers * attention + (layers - sparse) * dense + sparse * shared)
