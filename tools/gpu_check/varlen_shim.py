"""torch's `varlen_attn` for torch 2.11, which takes no pages: they are copied side by side for the same kernel.

The kernel, its masks and its alignment of the last query with the last key are those of torch 2.13; only the split of
long keys over pages is another. Shapes do not depend on values, so that a graph captures it. It copies every page of
the block table in every layer; the steps time those copies and take them off.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# `_flash_attention_forward`: query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, dropout, causal, debug mask.
Kernel = Callable[..., tuple[Tensor, ...]]
_NEEDED = ("seqused_k", "block_table", "enable_gqa", "num_splits")


def is_needed() -> bool:
    """Whether this torch's function lacks what the engine asks for. torch before 2.10 has none at all."""
    from torch.nn.attention import varlen

    parameters = inspect.signature(varlen.varlen_attn).parameters
    return any(name not in parameters for name in _NEEDED)


def install(kernel: Kernel | None = None) -> None:
    """Put the shim in the place of `torch.nn.attention.varlen.varlen_attn`, before the engine asks for that."""
    from torch.nn.attention import varlen

    function: Any = varlen_with_pages(kernel or torch.ops.aten._flash_attention_forward)
    varlen.varlen_attn = function


def varlen_with_pages(kernel: Kernel) -> Callable[..., Tensor | tuple[Tensor, Tensor]]:
    """`varlen_attn` of torch 2.13 over `kernel`, which knows keys side by side only."""

    def varlen_attn(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        return_aux: Any = None,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
        seqused_k: Tensor | None = None,
        block_table: Tensor | None = None,
        num_splits: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if block_table is not None:
            key, value, cu_seq_k, max_k = side_by_side(key, value, block_table)
        out, logsumexp = kernel(
            *(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, 0.0, window_size == (-1, 0), False),
            scale=scale,
            window_size_left=window_size[0],
            window_size_right=window_size[1],
            seqused_k=seqused_k,
        )[:2]
        return (out, logsumexp) if return_aux is not None and return_aux.lse else out

    return varlen_attn


def side_by_side(key: Tensor, value: Tensor, block_table: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """The pages `[N * P * page_size, H, D]` of a table `[N, P]`, int32 starts `[N + 1]`, and the keys of each row."""
    num_rows, num_pages = block_table.shape
    pages = block_table.flatten()
    keys, values = (pool.index_select(0, pages).flatten(0, 1) for pool in (key, value))
    most = num_pages * key.shape[1]
    starts = torch.arange(num_rows + 1, dtype=torch.int32, device=key.device) * most
    return keys, values, starts, most
