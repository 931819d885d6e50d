"""Attention over slots: each sequence's keys are one view of the cache, so torch's own kernel attends to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.runners.attention import STEP, LayerTraits
from handler.runners.masked_attention import MAX_BYTES, masked_attention, score_bytes
from handler.runners.slots.cache import SlotCache, StoredKeys
from handler.runners.slots.input import LENGTH_BUCKET, DecodeGroup, ModelInput, PrefillChunk, bucket

if TYPE_CHECKING:  # where it runs, numba is loaded, which takes 0.3 s
    from handler.kernels.attention.row_attention import RowAttention

# The CPU kernel sums a block of 1 to 3 query rows in another order than a larger one. A row's result must not depend on
# how many rows of its prompt run with it, so the rows are padded to a multiple of this.
_QUERY_ROWS = 4


@dataclass(slots=True, eq=False)
class SlotStep:
    """`AttentionStep` over slots."""

    cache: SlotCache
    model_input: ModelInput
    windows: dict[int, int]
    calls: int = 0

    def attend(self, layer_idx: int, query: Tensor, key: Tensor, value: Tensor, traits: LayerTraits) -> Tensor:
        """As `AttentionStep.attend`."""
        self.calls += 1
        found = self.model_input
        traits = replace(traits, window=self.windows.get(layer_idx, traits.window))
        self.cache.write(layer_idx, found.flat_index, key, value)
        keys = self.cache.reader(layer_idx, query.dtype)
        parts = [_decode(group, query, keys, traits) for group in found.decodes]
        prefill = _prefill_by_rows if query.is_cuda else _prefill
        parts += [prefill(chunk, query, keys, traits) for chunk in found.chunks]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def attend_rows(
        self,
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
        self.calls += 1
        found = self.model_input
        cache = self.cache.layer(layer_idx, values, values)
        window = self.windows.get(layer_idx, window)
        return kernel(heads, values, cosines, sines, cache, found.flat_index, found.position_ids, scale, window)


def current_step() -> SlotStep:
    """The forward pass under way, for layers that only this runner has."""
    step = STEP.get()
    assert isinstance(step, SlotStep)
    return step


def _decode(group: DecodeGroup, query: Tensor, stored: StoredKeys, traits: LayerTraits) -> Tensor:
    """One new token for each row of the group; the query heads that share a key head are its query rows."""
    rows = query[group.first_row : group.first_row + group.num_rows]
    used = group.rows_on(query.device)
    if used is not None:
        rows = rows.new_zeros(group.num_slots, *rows.shape[1:]).index_copy_(0, used, rows)
    queries = rows.reshape(group.num_slots, stored.num_kv_heads, -1, query.shape[-1])
    slots = slice(group.first_slot, group.first_slot + group.num_slots)
    k, v = (part.transpose(1, 2) for part in stored.read(slots, 0, group.length))
    out = _attend(queries, k, v, group.mask(traits.window, query.dtype, query.device), traits)
    out = out.reshape(group.num_slots, -1, v.shape[-1])
    return out if used is None else out.index_select(0, used)


def _prefill(chunk: PrefillChunk, query: Tensor, stored: StoredKeys, traits: LayerTraits) -> Tensor:
    """A chunk of one prompt over all keys of its sequence so far, the chunk's included."""
    q = query[chunk.first_row : chunk.first_row + chunk.num_rows].transpose(0, 1)[None]
    k, v = (part.transpose(1, 2) for part in stored.read(chunk.slots, 0, chunk.length))
    return _attend(q, k, v, chunk.mask(traits.window, query.dtype, query.device), traits)[0].transpose(0, 1)


def _prefill_by_rows(chunk: PrefillChunk, query: Tensor, stored: StoredKeys, traits: LayerTraits) -> Tensor:
    """As `_prefill`, on a GPU: so many rows at a time that their mask and scores are bounded."""
    q = query[chunk.first_row : chunk.first_row + chunk.num_rows]
    at_once = max(1, MAX_BYTES // (score_bytes(query.shape[1]) * chunk.length))
    return torch.cat(
        [
            _attend_rows(chunk, chunk.start + first, rows, stored, traits)
            for first, rows in zip(range(0, chunk.num_rows, at_once), q.split(at_once), strict=True)
        ]
    )


def _attend_rows(chunk: PrefillChunk, start: int, query: Tensor, stored: StoredKeys, traits: LayerTraits) -> Tensor:
    """Rows `query` `[R, Hq, D]` of a chunk, the first at position `start`, over the keys that they see."""
    end = bucket(start + len(query))
    begin = max(0, start - traits.window + 1) // LENGTH_BUCKET * LENGTH_BUCKET if traits.window else 0
    position = torch.arange(begin, end, device=query.device)
    own = torch.arange(start, start + len(query), device=query.device)[:, None]
    hidden = position > own
    if traits.window:
        hidden |= position <= own - traits.window
    k, v = (part.transpose(1, 2) for part in stored.read(chunk.slots, begin, end))
    return masked_attention(query[None], k, v, hidden[None], traits)[0]


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
    """Softcapped scores (Gemma 2) and attention sinks (gpt-oss), which the fused kernel does not compute."""
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
