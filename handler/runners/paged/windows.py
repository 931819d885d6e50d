"""Decodes with a sliding window, such that the kernel packs the query heads that share a key head.

FlashAttention-2 packs them only without a window. A window begins anywhere in a page, which a block table cannot say.
Here the part of a window that lies in one page is a sequence of its own: its keys are neighbours in memory, so no table
is needed. The kernel's log-sum-exp tells how much each part counts. docs/decisions/0100.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.runners.attention import LayerTraits
from handler.runners.paged.input import PagedInput
from handler.runners.paged.varlen import varlen_attention
from handler.seam.errors import one_line

logger = logging.getLogger(__name__)

# Packing must spare so many query rows * query heads * keys * head size. The kernel computes 64 rows for one, so at 350
# TFLOP/s they take 25 us; with half-filled windows that is what the eight kernels more of this way take.
_WORTHWHILE = 1 << 25
# Of outputs of about 1 in half precision. A key too many or too few changes some by more.
_TOLERANCE = 0.04


@dataclass(frozen=True, slots=True, eq=False)
class WindowParts:
    """The windows of N decodes in P pages each, as sequences of an unpaged call.

    `starts` int32 `[N * P + 1]`: the first key's slot of each part (the last entry is not one); `lengths` int32
    `[N * P]`, 0 for pages beyond a sequence; `rows` int32 `[N * P + 1]`, 0, 1, 2, ...; `hidden` bool `[N, P]`.
    """

    starts: Tensor
    lengths: Tensor
    rows: Tensor
    hidden: Tensor


def packing_pays(query: Tensor, num_kv_heads: int, window: int) -> bool:
    """Whether decodes `query` `[N, Hq, D]` over windows of `window` keys are faster with packed heads."""
    spared = query.shape[0] * (query.shape[1] - num_kv_heads) * query.shape[2] * window
    return query.is_cuda and spared > _WORTHWHILE


def window_parts(given: PagedInput, window: int, page_size: int) -> WindowParts:
    """For decodes only: the newest `window` keys of each sequence. Capturable."""
    used, table = given.seqused_k[:, None], given.block_table
    first = (used - window).clamp(min=0)
    most = (window + page_size - 2) // page_size + 1
    pages = first // page_size + torch.arange(most, device=table.device, dtype=torch.int32)
    starts = torch.maximum(pages * page_size, first)
    lengths = (torch.minimum((pages + 1) * page_size, used) - starts).clamp(min=0)
    held = table.gather(1, pages.clamp(max=table.shape[1] - 1).long())
    slots = held * page_size + starts % page_size
    rows = torch.arange(lengths.numel() + 1, device=table.device, dtype=torch.int32)
    return WindowParts(torch.nn.functional.pad(slots.flatten(), (0, 1)), lengths.flatten(), rows, lengths == 0)


def window_attention(query: Tensor, keys: Tensor, values: Tensor, parts: WindowParts, traits: LayerTraits) -> Tensor:
    """As `varlen_attention` for decodes: `query` `[N, Hq, D]`, `keys`, `values` `[pages, page_size, Hkv, D]` ->
    `[N, Hq, D]`, attention sinks included."""
    (num_seqs, num_parts), page_size = parts.hidden.shape, keys.shape[1]
    repeated = query[:, None].expand(-1, num_parts, -1, -1).flatten(0, 1)
    out, logsumexp = varlen_attention(
        *(repeated, keys.flatten(0, 1), values.flatten(0, 1), parts.rows, parts.starts, 1, page_size),
        scale=traits.scale,
        window_size=(-1, -1),
        enable_gqa=query.shape[1] != keys.shape[2],
        seqused_k=parts.lengths,
        block_table=None,
    )
    scores = logsumexp.unflatten(1, (num_seqs, num_parts)).masked_fill(parts.hidden, float("-inf"))
    if traits.sinks is not None:
        # A sink is one more score without a value.
        sinks = traits.sinks.float()[:, None, None].expand(-1, num_seqs, 1)
        scores = torch.cat([scores, sinks], -1)
    shares = scores.softmax(-1)[..., :num_parts].permute(1, 2, 0)[..., None]
    weighted: Tensor = out.unflatten(0, (num_seqs, num_parts)) * shares
    return weighted.sum(1).to(query.dtype)


def parts_agree(page_size: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel says the same with its own window, on random numbers. The trial crosses short windows only."""
    random = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 64, generator=random).to(device, dtype)
    keys, values = (torch.randn(4, page_size, 2, 64, generator=random).to(device, dtype) for _ in range(2))
    values *= 16
    lengths = torch.tensor([page_size // 2, page_size + 1, 2 * page_size], dtype=torch.int32, device=device)
    table = torch.tensor([[1, 2], [2, 3], [3, 1]], dtype=torch.int32, device=device)
    rows, ids = torch.arange(4, dtype=torch.int32, device=device), torch.zeros(1, 3, dtype=torch.int64, device=device)
    given = PagedInput(ids, ids, ids[0], rows, rows, lengths, table, 1, 2 * page_size, None)
    # Weights are nearly equal, so every key counts.
    traits = LayerTraits(0.01, page_size - 3)
    try:
        found = window_attention(query, keys, values, window_parts(given, traits.window, page_size), traits)
        expected, _ = varlen_attention(
            *(query, keys, values, rows, rows, 1, 2 * page_size),
            scale=traits.scale,
            window_size=(traits.window - 1, 0),
            enable_gqa=True,
            seqused_k=lengths,
            block_table=table,
        )
    except (RuntimeError, TypeError, ValueError) as exc:
        logger.warning("windows keep the heads of decodes unpacked: %s", one_line(exc, 200))
        return False
    return bool((found.float() - expected.float()).abs().max() <= _TOLERANCE)
