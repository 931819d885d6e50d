"""The attention function every model layer calls, and the step it runs in.

transformers looks the function up by name (`AttentionInterface`), builds no mask for it, and passes new keys and
values with rotary applied. What the layer does not know, the cache and who owns which row, comes from `STEP`,
because some families drop extra keyword arguments on the way (stablelm, nemotron).
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from handler.errors import UnsupportedModel
from handler.kv_cache import SlotCache
from handler.model_input import DecodeGroup, ModelInput, PrefillChunk

if TYPE_CHECKING:  # where it runs, numba is loaded, which takes 0.3 s
    from handler.native.row_attention import RowAttention

ATTENTION_NAME = "engine"
# The CPU kernel works on blocks of 32 or more query rows and sums a block of 1 to 3 rows in another order. A row's
# numbers must not depend on how many rows of its prompt run with it, so the rows are a multiple of this.
_QUERY_ROWS = 4


class UnsupportedAttention(Exception):
    """A layer asks for something this attention does not compute."""


@dataclass(slots=True, eq=False)
class StepContext:
    """The forward pass under way. `calls` counts attention calls, for the start-up probe."""

    cache: SlotCache
    model_input: ModelInput
    windows: dict[int, int]
    calls: int = 0


STEP: ContextVar[StepContext] = ContextVar("step")


@dataclass(frozen=True, slots=True, eq=False)
class LayerTraits:
    """What a layer wants: `scale` of the scores, `window` (0 none), `softcap` (0 none), `sinks` `[Hq]` or None."""

    scale: float
    window: int
    softcap: float
    sinks: Tensor | None


def engine_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: `attend` in its layout.

    `query` `[1, Hq, T, D]`, `key` and `value` `[1, Hkv, T, Dk or Dv]` hold the new tokens of all sequences, packed.
    Returns `([1, T, Hq, Dv], None)`. Raises UnsupportedAttention if a mask or dropout arrives.
    """
    if attention_mask is not None or dropout:
        raise UnsupportedAttention("attention mask or dropout given to the engine's attention")
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer_idx = int(module.layer_idx)  # type: ignore[arg-type]
    return attend(layer_idx, q, k, v, scale, sliding_window or 0, softcap or 0.0, s_aux)[None], None


def attend(
    layer_idx: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """Store the step's new keys and values, then attend with the step's cache.

    `query` `[T, Hq, D]`, `key` `[T, Hkv, D]`, `value` `[T, Hkv, Dv]`. `window` 0 is none; the configuration's, where it
    names one for the layer, comes first. Returns `[T, Hq, Dv]`.
    """
    step = STEP.get()
    step.calls += 1
    found = step.model_input
    traits = LayerTraits(scale, step.windows.get(layer_idx, window), softcap, sinks)
    keys, values = step.cache.write(layer_idx, found.flat_index, key, value)
    parts = [_decode(group, query, keys, values, traits) for group in found.decodes]
    parts += [_prefill(chunk, query, keys, values, traits) for chunk in found.chunks]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def attend_rows(
    kernel: RowAttention,
    layer_idx: int,
    heads: Tensor,
    values: Tensor,
    cosines: Tensor,
    sines: Tensor,
    scale: float,
    window: int = 0,
) -> Tensor:
    """`attend`, and rotary embedding before it, by the compiled kernel; arguments as `RowAttention` takes them."""
    step = STEP.get()
    step.calls += 1
    found = step.model_input
    cache = step.cache.layer(layer_idx, values, values)
    window = step.windows.get(layer_idx, window)
    return kernel(heads, values, cosines, sines, cache, found.flat_index, found.position_ids, scale, window)


def _decode(group: DecodeGroup, query: Tensor, keys: Tensor, values: Tensor, traits: LayerTraits) -> Tensor:
    """One new token for each row of the group; the query heads that share a key head are its query rows."""
    num_kv_heads = keys.shape[2]
    rows = query[group.first_row : group.first_row + group.num_rows]
    if group.rows is not None:
        rows = rows.new_zeros(group.num_slots, *rows.shape[1:]).index_copy_(0, group.rows, rows)
    packed = rows.reshape(group.num_slots, num_kv_heads, -1, query.shape[-1])
    slots = slice(group.first_slot, group.first_slot + group.num_slots)
    k = keys[slots, : group.length].transpose(1, 2)
    v = values[slots, : group.length].transpose(1, 2)
    out = _attend(packed, k, v, group.mask(traits.window, query.dtype), traits)
    out = out.reshape(group.num_slots, -1, v.shape[-1])
    return out if group.rows is None else out.index_select(0, group.rows)


def _prefill(chunk: PrefillChunk, query: Tensor, keys: Tensor, values: Tensor, traits: LayerTraits) -> Tensor:
    """A chunk of one prompt over everything the sequence has so far, the chunk included."""
    q = query[chunk.first_row : chunk.first_row + chunk.num_rows].transpose(0, 1)[None]
    k = keys[chunk.slot, : chunk.length].transpose(0, 1)[None]
    v = values[chunk.slot, : chunk.length].transpose(0, 1)[None]
    return _attend(q, k, v, chunk.mask(traits.window, query.dtype, query.device), traits)[0].transpose(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, traits: LayerTraits) -> Tensor:
    """`q` `[B, Hq, Q, D]`, `k`, `v` `[B, Hkv, K, D]`, Hq a multiple of Hkv -> `[B, Hq, Q, Dv]`."""
    if traits.softcap or traits.sinks is not None:
        return _attend_by_parts(q, k, v, mask, traits)
    num_rows, missing = q.shape[2], -q.shape[2] % _QUERY_ROWS
    if missing:
        q = torch.cat((q, q[:, :, -1:].expand(-1, -1, missing, -1)), 2)
        if mask.shape[-2] > 1:
            mask = torch.cat((mask, mask[..., -1:, :].expand(*mask.shape[:-2], missing, -1)), -2)
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=traits.scale, enable_gqa=grouped)
    return out[:, :, :num_rows]


def _attend_by_parts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, traits: LayerTraits) -> Tensor:
    """Softcapped scores (Gemma 2) and attention sinks (gpt-oss), which the fused kernel does not know."""
    sinks = traits.sinks
    if q.shape[1] != k.shape[1]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        v = v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    scores = (q @ k.transpose(-1, -2)) * traits.scale
    if traits.softcap:
        scores = torch.tanh(scores / traits.softcap) * traits.softcap
    scores = (scores + mask).float()
    if sinks is not None:
        # In a decode group the query heads of one key head are rows; elsewhere they are heads.
        shape = (1, *q.shape[1:3], 1) if sinks.numel() == q.shape[1] * q.shape[2] else (1, -1, 1, 1)
        column = sinks.float().reshape(shape).expand(q.shape[0], q.shape[1], q.shape[2], 1)
        weights = torch.cat([scores, column], -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return weights.to(v.dtype) @ v


def layer_windows(config: Any) -> dict[int, int]:
    """Sliding window per layer from `config.layer_types`; several families build the mask but never pass the window.

    Raises UnsupportedModel for any other kind of layer: where a chunk of 8,192 tokens ends, for one, lies beyond
    what a probe at start can afford to run.
    """
    layer_types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) or 0
    if not layer_types:
        return {}
    foreign = sorted(set(layer_types) - {"full_attention", "sliding_attention"})
    if foreign:
        raise UnsupportedModel(f"{config.model_type} has layers of type {', '.join(foreign)}")
    return {i: window if kind == "sliding_attention" else 0 for i, kind in enumerate(layer_types)}


AttentionInterface.register(ATTENTION_NAME, engine_attention)
