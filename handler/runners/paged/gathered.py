"""Attention over pages copied into one tensor: what torch's paged kernel does not compute.

Softcapped scores (Gemma 2), float32, heads above 256, and GPUs before compute capability 8.0 (T4). Sequences share
pages as with the kernel, so as many run at once. The copies cost bandwidth, and no CUDA graph holds them: their size
follows the longest sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.runners.attention import LayerTraits, UnsupportedAttention
from handler.runners.paged.input import PagedInput

# Bounds the scores of a part, and the keys and values that are copied for several sequences at once. The keys of one
# sequence are copied whole.
_MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """`num_rows` query rows of each of `num_seqs` sequences, over keys `[first_key, end_key)`."""

    first_row: int
    num_rows: int
    first_seq: int
    num_seqs: int
    first_key: int
    end_key: int

    @property
    def rows(self) -> slice:
        """The part's rows in the flattened batch."""
        return slice(self.first_row, self.first_row + self.num_rows * self.num_seqs)


def gathered_attention(
    query: Tensor, keys: Tensor, values: Tensor, given: PagedInput, window: int, traits: LayerTraits
) -> Tensor:
    """As `varlen_attention`: `query` `[T, Hq, D]`, `keys`, `values` `[pages, page_size, Hkv, D]` -> `[T, Hq, D]`.

    `window` counts keys, the query's own included; 0 is causal. Raises UnsupportedAttention inside a CUDA graph.
    """
    if given.lengths is None:
        raise UnsupportedAttention("gathered pages follow the lengths of sequences, which static buffers hide")
    out = torch.empty_like(query)
    key_bytes = 2 * keys.shape[2] * keys.shape[3] * keys.element_size()
    # Three matrices of float32 scores are alive at once.
    score_bytes = 3 * 4 * query.shape[1]
    for part in _parts(given.lengths, window, keys.shape[1], key_bytes, score_bytes):
        out[part.rows] = _attend(part, query[part.rows], keys, values, given, window, traits)
    return out


def _parts(
    lengths: tuple[tuple[int, int], ...], window: int, page_size: int, key_bytes: int, score_bytes: int
) -> Iterator[Part]:
    """Lone queries of neighbouring sequences together, prompt chunks in blocks of rows, each within `_MAX_BYTES`; but a
    part has at least one row."""
    row = seq = 0
    while seq < len(lengths):
        num_queries, num_keys = lengths[seq]
        if num_queries > 1:
            step = max(1, _MAX_BYTES // (score_bytes * num_keys))
            for first in range(0, num_queries, step):
                size = min(step, num_queries - first)
                end = num_keys - num_queries + first + size
                yield Part(row + first, size, seq, 1, _first_key(end - size, window, page_size), end)
            row, seq = row + num_queries, seq + 1
            continue
        last, longest = seq, 0
        while last < len(lengths) and lengths[last][0] == 1:
            longest = max(longest, lengths[last][1])
            if last > seq and (last - seq + 1) * longest * max(key_bytes, score_bytes) > _MAX_BYTES:
                break
            last += 1
        group = [keys for _, keys in lengths[seq:last]]
        yield Part(row, 1, seq, last - seq, _first_key(min(group) - 1, window, page_size), max(group))
        row, seq = row + last - seq, last


def _first_key(position: int, window: int, page_size: int) -> int:
    """The first key of the first page that a query at `position` sees."""
    return max(0, position - window + 1) // page_size * page_size if window else 0


def _attend(
    part: Part, query: Tensor, keys: Tensor, values: Tensor, given: PagedInput, window: int, traits: LayerTraits
) -> Tensor:
    seqs = slice(part.first_seq, part.first_seq + part.num_seqs)
    page_size, num_kv_heads = keys.shape[1:3]
    table = given.block_table[seqs, part.first_key // page_size : -(-part.end_key // page_size)]
    position = torch.arange(table.shape[1] * page_size, device=query.device) + part.first_key
    own = given.position_ids[0, part.rows].view(part.num_seqs, part.num_rows, 1)
    hidden = position > own
    if window:
        hidden |= position <= own - window
    # What lies beyond a sequence's last key belongs to nobody and may not be a number.
    unused = (position >= given.seqused_k[seqs, None])[:, None, :, None]
    k, v = (_gather(pool, table).masked_fill_(unused, 0) for pool in (keys, values))
    # The query heads that share a key head become its rows: no kernel wants unequal heads then.
    rows = query.view(part.num_seqs, part.num_rows, num_kv_heads, -1, query.shape[-1]).permute(0, 2, 3, 1, 4)
    q = rows.flatten(2, 3)
    repeated = hidden[:, None].repeat(1, rows.shape[2], 1, 1).flatten(1, 2)[:, None]
    out = _masked(q, k, v, repeated, traits, rows.shape[2])
    out = out.view(part.num_seqs, num_kv_heads, -1, part.num_rows, query.shape[-1])
    return out.permute(0, 3, 1, 2, 4).reshape(query.shape)


def _gather(pool: Tensor, table: Tensor) -> Tensor:
    """`[N, Hkv, P * page_size, D]` of the pages in `table` `[N, P]`."""
    pages = pool.index_select(0, table.flatten())
    return pages.view(table.shape[0], -1, *pool.shape[2:]).transpose(1, 2)


def _masked(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, traits: LayerTraits, group: int) -> Tensor:
    """`q` `[N, Hkv, R, D]`, R rows of `group` heads each -> `[N, Hkv, R, D]`; `hidden` `[N, 1, R, K]`."""
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
