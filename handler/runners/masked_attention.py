"""Attention with a mask on a GPU, whose memory does not grow with the square of the prompt.

torch's memory-efficient kernel takes a mask, but no key heads that several query heads share; with those it leaves the
work to its plain code, which stores every score (torch 2.13). So the query heads of a key head become its rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.runners.attention import LayerTraits

# Bounds the scores of the rows that are computed at once.
MAX_BYTES = 256 << 20


def score_bytes(num_heads: int) -> int:
    """Bytes of a row's scores for each key: three float32 matrices are alive at once."""
    return 3 * 4 * num_heads


def masked_attention(query: Tensor, k: Tensor, v: Tensor, hidden: Tensor, traits: LayerTraits) -> Tensor:
    """`query` `[N, R, Hq, D]`, `k` `[N, Hkv, K, D]`, `v` `[N, Hkv, K, Dv]` -> `[N, R, Hq, Dv]`.

    `hidden` bool `[N, R, K]`: True where a row does not look. Softcap and sinks are those of `traits`, its window not.
    """
    rows = query.unflatten(2, (k.shape[1], -1)).permute(0, 2, 3, 1, 4)
    group = rows.shape[2]
    repeated = hidden[:, None].repeat(1, group, 1, 1).flatten(1, 2)[:, None]
    out = _attend(rows.flatten(2, 3), k, v, repeated, traits, group)
    found: Tensor = out.unflatten(2, (group, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3)
    return found


def _attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, traits: LayerTraits, group: int) -> Tensor:
    """`q` `[N, Hkv, R, D]`, R rows of `group` heads each -> `[N, Hkv, R, Dv]`; `hidden` `[N, 1, R, K]`."""
    if not traits.softcap and traits.sinks is None:
        return F.scaled_dot_product_attention(q, k, v, ~hidden, scale=traits.scale)
    # Scaled first: in float16 the product of the heads as they are may overflow.
    scores = (q * traits.scale @ k.transpose(-1, -2)).float()
    if traits.softcap:
        scores = torch.tanh(scores / traits.softcap) * traits.softcap
    scores = scores.masked_fill_(hidden, float("-inf"))
    if traits.sinks is None:
        return scores.softmax(-1).to(v.dtype) @ v
    sinks = traits.sinks.float().view(1, k.shape[1], group, 1, 1).expand(len(q), -1, -1, q.shape[2] // group, 1)
    weights = torch.cat([scores, sinks.flatten(2, 3)], -1).softmax(-1)[..., :-1]
    return weights.to(v.dtype) @ v
