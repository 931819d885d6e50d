"""torch's paged attention: the preconditions of FlashAttention-2's `mha_varlen_fwd`, then the numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handler.runners.paged.varlen import packs_heads, varlen_attn_cpu


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    capability: tuple[int, int],
    scale: float | None,
    window: Any,
    used: Tensor | None,
    table: Tensor | None,
    num_splits: int | None,
) -> tuple[Tensor, Tensor]:
    """The output `[T, Hq, D]` and the log-sum-exp `[Hq, T]`. Raises RuntimeError as the kernel does."""
    _require(capability >= (8, 0), "FlashAttention only supports Ampere GPUs or newer.")
    _require(query.dtype in (torch.float16, torch.bfloat16), "FlashAttention only supports fp16 and bf16 data type")
    _require(query.dtype == key.dtype == value.dtype, "query, key and value must have the same dtype")
    _require(used is not None, "this device knows used keys only")
    assert used is not None
    _require(all(t.stride(-1) == 1 for t in (query, key, value)), "Input tensor must have contiguous last dimension")
    _require(all(t.is_contiguous() for t in (cu_seq_q, cu_seq_k, used)), "cu_seqlens must be contiguous")
    _require(all(t.dtype == torch.int32 for t in (cu_seq_q, cu_seq_k, used)), "lengths must have dtype int32")
    _require(query.shape[-1] <= 256, "FlashAttention forward only supports head dimension at most 256")
    _require(query.shape[-1] % 8 == 0, "query head size must be a multiple of 8")
    _require(query.shape[1] % key.shape[-2] == 0, "Number of heads in key/value must divide number of heads in query")
    batch = cu_seq_q.numel() - 1
    _require(batch > 0, "batch size must be positive")
    _require(cu_seq_k.shape == (batch + 1,) and used.shape == (batch,), "batch sizes differ")
    _check_keys(key, cu_seq_k, used, table)
    if packs_heads(query.shape[1], key.shape[-2], max_q, window or (-1, -1)):
        _require(query.shape[0] == batch, f"shape '[{batch}, ...]' is invalid for input of {query.shape[0]} rows")
    else:
        _require(table is None or num_splits == 1, "the parts of split keys would be written to wrong rows")
    _require(int((cu_seq_q[1:] - cu_seq_q[:-1]).max()) <= max_q, "an illegal memory access was encountered (max_q)")
    keys, values, own = _read_pages(key, value, table)
    found, logsumexp = varlen_attn_cpu(
        query.float(), keys, values, cu_seq_q, cu_seq_k, max_q, max_k,
        scale=scale, window_size=tuple(window or (-1, -1)), enable_gqa=query.shape[1] != key.shape[-2],
        seqused_k=used, block_table=own,
    )  # fmt: skip
    return found.to(query.dtype), logsumexp


def _check_keys(key: Tensor, cu_seq_k: Tensor, used: Tensor, table: Tensor | None) -> None:
    """The kernel does not check what it reads: beyond its keys lies memory that is not its own."""
    if table is None:
        starts = cu_seq_k[:-1]
        inside = int(starts.min()) >= 0 and int((starts + used).max()) <= key.shape[0]
        _require(inside, "an illegal memory access was encountered (key)")
        return
    _require(table.stride(-1) == 1 and table.dtype == torch.int32, "block_table must be contiguous and int32")
    _require(key.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256")
    _require(table.shape[0] == used.shape[0], "batch sizes differ")
    _require(int(used.max()) <= table.shape[1] * key.shape[1], "an illegal memory access was encountered (table)")
    inside = int(table.min()) >= 0 and int(table.max()) < key.shape[0]
    _require(inside, "an illegal memory access was encountered (page)")


def _read_pages(key: Tensor, value: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Float32 keys and values, and the table's numbers of them: only the pages in the table, as memory may be large."""
    if table is None:
        return key.float().nan_to_num(), value.float().nan_to_num(), None
    pages, own = table.unique(return_inverse=True)
    keys, values = (pool[pages].float().nan_to_num() for pool in (key, value))
    return keys, values, own.int()


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise RuntimeError(message)


def flash_attention_forward(bound: dict[str, Any], capability: tuple[int, int]) -> tuple[Tensor, ...]:
    """torch's operator over keys side by side, `[T, H, D]`. `bound` holds its arguments by name."""
    starts = bound["cum_seq_k"]
    most = -(-bound["max_k"] // 256) * 256
    places = (starts[:-1, None] + torch.arange(most)).clamp(max=bound["key"].shape[0] - 1)
    found = varlen_attn(
        bound["query"],
        *(bound[name][places] for name in ("key", "value")),
        *(bound["cum_seq_q"], starts, bound["max_q"], most),
        capability=capability,
        scale=bound["scale"],
        window=(bound["window_size_left"], 0 if bound["is_causal"] else bound["window_size_right"]),
        used=bound["seqused_k"],
        table=torch.arange(starts.numel() - 1, dtype=torch.int32)[:, None],
        num_splits=1,
    )
    return (*found, torch.zeros(2, dtype=torch.uint64), torch.zeros(()), torch.zeros(()))
