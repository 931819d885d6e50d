"""Rows of transformers caches: joined into one left-padded batch, and taken apart again.

The only file that touches the fields inside transformers' cache layers (cache_utils.py, read at 5.23). A *row* is a
cache of batch size 1. Keys and values are `[B, heads, length, dim]`, or the last `window - 1` of them in a sliding
layer; convolution and recurrent states have no length, so they are only stacked.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

# Types are compared exactly: a subclass may keep state that this file does not know.
_KNOWN = frozenset(
    {
        DummyLayer,
        DynamicLayer,
        DynamicSlidingWindowLayer,
        LinearAttentionLayer,
        LinearAttentionAndFullAttentionLayer,
        LinearAttentionAndSlidingWindowAttentionLayer,
    }
)
# Fields of linear-attention layers: dictionaries of tensors `[B, ...]` or None, and flags about them.
STATES = ("conv_states", "recurrent_states")
_STATE_FLAGS = ("is_conv_states_initialized", "is_recurrent_states_initialized", "has_previous_state")


class UnknownCacheLayer(NotImplementedError):
    """A layer keeps its state in a way that cannot be joined here."""


def attends(cache: Cache) -> bool:
    """True if some layer keeps keys and values, so that a padded batch needs an attention mask."""
    return any(isinstance(layer, CacheLayerMixin) for layer in cache.layers)


def merge(rows: Sequence[Cache]) -> Cache:
    """One cache of `len(rows)` rows, shorter ones padded with zeros on the left. The rows are copied.

    Raises UnknownCacheLayer.
    """
    merged = copy.copy(rows[0])
    merged.layers = [_merge_layer(parts) for parts in zip(*(row.layers for row in rows), strict=True)]
    return merged


def split(cache: Cache, index: int, length: int) -> Cache:
    """Row `index` of a merged cache, which has seen `length` tokens, without its padding.

    The row shares memory with `cache`, which must not run again.
    """
    row = copy.copy(cache)
    row.layers = [_split_layer(layer, index, length) for layer in cache.layers]
    return row


def clear_states(row: Cache, name: str) -> bool:
    """Zero the states `name`, one of STATES, in all layers; False if no layer has any."""
    found = _states(row, name)
    for state in found:
        state.zero_()
    return bool(found)


def state_bytes(row: Cache) -> int:
    """Memory of the states in bytes; it does not depend on the row's length."""
    return sum(state.nbytes for name in STATES for state in _states(row, name))


def _states(cache: Cache, name: str) -> list[Tensor]:
    layers = (layer for layer in cache.layers if isinstance(layer, LinearAttentionCacheLayerMixin))
    return [state for layer in layers for state in getattr(layer, name).values() if state is not None]


def _keeps_keys(layer: Any) -> bool:
    return isinstance(layer, CacheLayerMixin) and layer.keys is not None


def _merge_layer(parts: tuple[Any, ...]) -> Any:
    first = parts[0]
    if type(first) not in _KNOWN:
        raise UnknownCacheLayer(type(first).__name__)
    whole = copy.copy(first)
    if _keeps_keys(first):
        width = max(part.keys.shape[-2] for part in parts)
        whole.keys = torch.cat([_pad_left(part.keys, width) for part in parts])
        whole.values = torch.cat([_pad_left(part.values, width) for part in parts])
        if isinstance(whole, DynamicSlidingWindowLayer):
            whole.cumulative_length = max(part.cumulative_length for part in parts)
    if isinstance(whole, LinearAttentionCacheLayerMixin):
        for name in STATES:
            setattr(whole, name, _stack([getattr(part, name) for part in parts]))
        _own_flags(whole)
    return whole


def _split_layer(whole: Any, index: int, length: int) -> Any:
    part = copy.copy(whole)
    if _keeps_keys(whole):
        first = max(0, whole.keys.shape[-2] - length)
        part.keys = whole.keys[index : index + 1, :, first:]
        part.values = whole.values[index : index + 1, :, first:]
        if isinstance(whole, DynamicSlidingWindowLayer):
            part.cumulative_length = length
    if isinstance(whole, LinearAttentionCacheLayerMixin):
        for name in STATES:
            states = getattr(whole, name)
            setattr(part, name, {i: None if s is None else s[index : index + 1] for i, s in states.items()})
        _own_flags(part)
    return part


def _own_flags(layer: Any) -> None:
    """Give the layer its own dictionaries of flags; a shallow copy shares them."""
    for name in _STATE_FLAGS:
        setattr(layer, name, dict(getattr(layer, name)))
    layer.conv_kernel_size = dict(layer.conv_kernel_size)


def _stack(states: list[dict[int, Tensor | None]]) -> dict[int, Tensor | None]:
    joined: dict[int, Tensor | None] = {}
    for index in states[0]:
        tensors = [state[index] for state in states]
        known = [tensor for tensor in tensors if tensor is not None]
        joined[index] = torch.cat(known) if known else None
    return joined


def _pad_left(tensor: Tensor, width: int) -> Tensor:
    return F.pad(tensor, (0, 0, width - tensor.shape[-2], 0))
