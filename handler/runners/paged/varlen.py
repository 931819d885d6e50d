"""Attention of flattened sequences over paged keys: torch's kernel on CUDA, plain torch with its semantics elsewhere.

`torch.nn.attention.varlen` is new in torch 2.13, and its return value changed in 2.14. Only this file names it, and it
checks the signature before the first call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.runners.attention import UnsupportedAttention
from handler.runners.limits import CUDA_PAGE_SIZE

# FlashAttention-2 takes heads of at most this size.
_CUDA_MAX_HEAD_DIM = 256
# Both implementations want head sizes that are a multiple of this.
HEAD_DIM_MULTIPLE = 8

_NEEDED = ("scale", "window_size", "enable_gqa", "seqused_k", "block_table", "return_aux", "num_splits")


@cache
def torch_varlen() -> Callable[..., Any]:
    """torch's function. Raises UnsupportedAttention if this torch has none that takes pages."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as exc:
        raise UnsupportedAttention(f"torch {torch.__version__} has no varlen_attn") from exc
    parameters = inspect.signature(varlen_attn).parameters
    missing = [name for name in _NEEDED if name not in parameters]
    if missing:
        raise UnsupportedAttention(f"varlen_attn of torch {torch.__version__} takes no {', '.join(missing)}")
    return varlen_attn


def missing_kernel(dtype: torch.dtype, page_size: int, device: torch.device) -> str | None:
    """Why torch has no paged attention kernel for this on a CUDA `device`; None if it has one."""
    try:
        torch_varlen()
    except UnsupportedAttention as exc:
        return str(exc)
    if dtype not in {torch.float16, torch.bfloat16}:
        return f"the paged attention kernel takes float16 and bfloat16, not {dtype}"
    if page_size % CUDA_PAGE_SIZE:
        return f"the paged attention kernel takes pages of {CUDA_PAGE_SIZE} tokens, not {page_size}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the paged attention kernel takes compute capability 8.0 or more"
    return None


def takes_head(query: Tensor, head_dim: int) -> bool:
    """Whether the kernel for `query`'s device takes heads of `head_dim`."""
    return not query.is_cuda or head_dim <= _CUDA_MAX_HEAD_DIM


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Attend to paged keys, the last query of each of N sequences aligned with its last key.

    `query` `[T, Hq, D]`; `key`, `value` `[pages, page_size, Hkv, D]`; `cu_seq_q`, `cu_seq_k` int32 `[N + 1]`, starts
    of the sequences' queries and keys; `seqused_k` int32 `[N]`, keys that exist; `block_table` int32 `[N, P]`, page of
    each `page_size` keys. `max_q`, `max_k` bound the lengths. `window_size` (left, right): how many keys before and
    after its own a query sees, -1 for all. Returns `[T, Hq, D]` and the log-sum-exp of the scores, float32 `[Hq, T]`.
    Keys from `seqused_k` on are never read.

    Without a table `key`, `value` are `[K, Hkv, D]`, and a sequence has the `seqused_k` keys from its `cu_seq_k` on, in
    any order of sequences; none gives zeros, and a log-sum-exp that means nothing.
    """
    head_dim = query.shape[-1]
    if key.shape[-1] != head_dim or value.shape[-1] != head_dim or head_dim % HEAD_DIM_MULTIPLE:
        raise UnsupportedAttention(
            f"head sizes {head_dim}, {key.shape[-1]}, {value.shape[-1]} are not one multiple of 8"
        )
    options: dict[str, Any] = {"scale": scale, "window_size": window_size, "enable_gqa": enable_gqa}
    options |= {"seqused_k": seqused_k, "block_table": block_table}
    if not query.is_cuda:
        return varlen_attn_cpu(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options)
    splits = None if packs_heads(query.shape[1], key.shape[-2], max_q, window_size) else 1
    found: tuple[Tensor, Tensor] = torch_varlen()(
        *(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k),
        return_aux=_log_sum_exp(),
        num_splits=splits,
        **options,
    )
    return found


def packs_heads(num_heads: int, num_kv_heads: int, max_q: int, window_size: tuple[int, int]) -> bool:
    """Whether FlashAttention-2 lets the query heads of a key head share a tile (`seqlenq_ngroups_swapped`).

    It may split long keys only then: it puts the parts of other calls together as if every sequence's queries began at
    the first row (github.com/pytorch/pytorch/issues/194167).
    """
    return max_q == 1 and num_heads > num_kv_heads and max(window_size) < 0


def _log_sum_exp() -> object:
    from torch.nn.attention.varlen import AuxRequest

    return AuxRequest(lse=True)


def varlen_attn_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`torch.nn.attention.varlen.varlen_attn` with used keys and its log-sum-exp, for any device.

    Raises ValueError where it would.
    """
    if (query.shape[1] != key.shape[-2]) if not enable_gqa else query.shape[1] % key.shape[-2]:
        raise ValueError(f"{query.shape[1]} query heads over {key.shape[-2]} key heads, enable_gqa={enable_gqa}")
    for name, tensor in {
        "cu_seq_q": cu_seq_q,
        "cu_seq_k": cu_seq_k,
        "seqused": seqused_k,
        "table": block_table,
    }.items():
        if tensor is not None and tensor.dtype != torch.int32:
            raise ValueError(f"{name} must be int32. Given: {tensor.dtype}")
    if block_table is None:
        # Pages of one key.
        block_table = cu_seq_k[:-1, None] + torch.arange(max_k, dtype=torch.int32, device=key.device)
        key, value = key[:, None], value[:, None]
    found: tuple[Tensor, Tensor] = _emulated(
        query, key, value, cu_seq_q, max_q, max_k, scale, window_size[0], window_size[1], seqused_k, block_table
    )
    return found


# A custom operator, like torch's own: dispatch modes and tracers see one call without host syncs.
@torch.library.custom_op("heir::varlen_attn_cpu", mutates_args=())
def _emulated(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    max_q: int,
    max_k: int,
    scale: float,
    left: int,
    right: int,
    seqused_k: Tensor,
    block_table: Tensor,
) -> tuple[Tensor, Tensor]:
    starts, lengths = cu_seq_q.tolist(), seqused_k.tolist()
    out, logsumexp = torch.empty_like(query), query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)
    page_size = key.shape[1]
    for i, length in enumerate(lengths):
        first, last = starts[i], starts[i + 1]
        if last - first > max_q or length > max_k:
            raise ValueError(f"sequence {i}: {last - first} queries, {length} keys exceed {max_q}, {max_k}")
        if not length:
            out[first:last], logsumexp[:, first:last] = 0, float("inf")
            continue
        pages = block_table[i, : -(-length // page_size)]
        k = key.index_select(0, pages).flatten(0, 1)[:length].transpose(0, 1)
        v = value.index_select(0, pages).flatten(0, 1)[:length].transpose(0, 1)
        q = query[first:last].transpose(0, 1)
        mask = _visible(last - first, length, left, right, query.device)
        found = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=q.shape[0] != k.shape[0])
        out[first:last] = found.transpose(0, 1)
        scores = q.float() @ k.float().repeat_interleave(q.shape[0] // k.shape[0], 0).transpose(1, 2) * scale
        logsumexp[:, first:last] = scores.masked_fill(~mask, float("-inf")).logsumexp(-1)
    return out, logsumexp


@_emulated.register_fake
def _(query: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)


def _visible(num_queries: int, num_keys: int, left: int, right: int, device: torch.device) -> Tensor:
    """Bool `[num_queries, num_keys]`: which keys each query sees; the last query stands at the last key."""
    own = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    keys = torch.arange(num_keys, device=device)[None]
    visible = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    if left >= 0:
        visible &= keys >= own - left
    if right >= 0:
        visible &= keys <= own + right
    return visible
