"""Attention over pages copied into one tensor: what torch's paged kernel does not compute.

Softcapped scores (Gemma 2), float32, heads above 256, and GPUs before compute capability 8.0 (T4). Sequences share
pages as with the kernel, so as many run at once. The copies cost bandwidth, and no CUDA graph holds them: their size
follows the longest sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.runners.attention import LayerTraits, UnsupportedAttention
from handler.runners.masked_attention import MAX_BYTES, masked_attention, score_bytes
from handler.runners.paged.input import PagedInput
from handler.runners.quantised_keys import dequantise, plain

# Bounds the scores of a part, and the keys and values that are copied for several sequences at once. The keys of one
# sequence are copied whole.
_MAX_BYTES = MAX_BYTES


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
    query: Tensor, pools: tuple[Tensor, ...], given: PagedInput, window: int, traits: LayerTraits
) -> Tensor:
    """As `varlen_attention`: `query` `[T, Hq, D]`, `pools` a layer's tensors in `PagedCache` -> `[T, Hq, D]`.

    `window` counts keys, the query's own included; 0 is causal. Raises UnsupportedAttention inside a CUDA graph.
    """
    if given.lengths is None:
        raise UnsupportedAttention("gathered pages follow the lengths of sequences, which static buffers hide")
    out = torch.empty_like(query)
    _, page_size, num_kv_heads, head_dim = pools[0].shape
    key_bytes = 2 * num_kv_heads * head_dim * query.element_size()
    for part in _parts(given.lengths, window, page_size, key_bytes, score_bytes(query.shape[1])):
        out[part.rows] = _attend(part, query[part.rows], pools, given, window, traits)
    return out


def _parts(
    lengths: tuple[tuple[int, int], ...], window: int, page_size: int, key_bytes: int, row_bytes: int
) -> Iterator[Part]:
    """Lone queries of neighbouring sequences together, prompt chunks in blocks of rows, each within `_MAX_BYTES`; but a
    part has at least one row."""
    row = seq = 0
    while seq < len(lengths):
        num_queries, num_keys = lengths[seq]
        if num_queries > 1:
            step = max(1, _MAX_BYTES // (row_bytes * num_keys))
            for first in range(0, num_queries, step):
                size = min(step, num_queries - first)
                end = num_keys - num_queries + first + size
                yield Part(row + first, size, seq, 1, _first_key(end - size, window, page_size), end)
            row, seq = row + num_queries, seq + 1
            continue
        last, longest = seq, 0
        while last < len(lengths) and lengths[last][0] == 1:
            longest = max(longest, lengths[last][1])
            if last > seq and (last - seq + 1) * longest * max(key_bytes, row_bytes) > _MAX_BYTES:
                break
            last += 1
        group = [keys for _, keys in lengths[seq:last]]
        yield Part(row, 1, seq, last - seq, _first_key(min(group) - 1, window, page_size), max(group))
        row, seq = row + last - seq, last


def _first_key(position: int, window: int, page_size: int) -> int:
    """The first key of the first page that a query at `position` sees."""
    return max(0, position - window + 1) // page_size * page_size if window else 0


def _attend(
    part: Part, query: Tensor, pools: tuple[Tensor, ...], given: PagedInput, window: int, traits: LayerTraits
) -> Tensor:
    seqs = slice(part.first_seq, part.first_seq + part.num_seqs)
    page_size = pools[0].shape[1]
    table = given.block_table[seqs, part.first_key // page_size : -(-part.end_key // page_size)]
    position = torch.arange(table.shape[1] * page_size, device=query.device) + part.first_key
    own = given.position_ids[0, part.rows].view(part.num_seqs, part.num_rows, 1)
    hidden = position > own
    if window:
        hidden |= position <= own - window
    # What lies beyond a sequence's last key belongs to nobody and may not be a number.
    unused = (position >= given.seqused_k[seqs, None])[:, None, :, None]
    k, v = (part.masked_fill_(unused, 0) for part in _gather(pools, table, query.dtype))
    rows = query.view(part.num_seqs, part.num_rows, *query.shape[1:])
    return masked_attention(rows, k, v, hidden, traits).reshape(query.shape)


def _gather(pools: tuple[Tensor, ...], table: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values, each `[N, Hkv, P * page_size, D]`, of the pages in `table` `[N, P]`."""
    keys, values, *scales = (
        plain(pool).index_select(0, table.flatten()).view(pool.dtype).view(table.shape[0], -1, *pool.shape[2:])
        for pool in pools
    )
    if scales:
        keys, values = dequantise(keys, scales[0], dtype), dequantise(values, scales[1], dtype)
    return keys.transpose(1, 2), values.transpose(1, 2)
