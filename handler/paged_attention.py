"""The attention function model layers call when keys are in pages, and the step it runs in.

What `varlen_attention` cannot compute is refused, and such models run over slots: softcapped scores (Gemma 2) and
attention sinks (gpt-oss). Sliding windows, grouped heads and two head sizes are honoured.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from handler.attention import UnsupportedAttention
from handler.paged_cache import PagedCache, widen
from handler.paged_input import PagedInput
from handler.varlen import varlen_attention

PAGED_ATTENTION_NAME = "engine_paged"


@dataclass(slots=True, eq=False)
class PagedStep:
    """The forward pass under way. `calls` counts attention calls, for the start-up self-test."""

    cache: PagedCache
    paged_input: PagedInput
    windows: dict[int, int]
    calls: int = 0
    _inputs: dict[torch.device, PagedInput] = field(default_factory=dict)

    def input_on(self, device: torch.device) -> PagedInput:
        """The input for a layer on `device`; moved once for each device where a model is spread over several."""
        if device == self.paged_input.slot_mapping.device:
            return self.paged_input
        if device not in self._inputs:
            self._inputs[device] = self.paged_input.on(device)
        return self._inputs[device]


PAGED_STEP: ContextVar[PagedStep] = ContextVar("paged_step")


def paged_attention(
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
    """Store the step's keys, then attend with the step's block table.

    `query` `[1, Hq, T, D]`, `key` and `value` `[1, Hkv, T, Dk or Dv]` hold the new tokens of all sequences, packed.
    Returns `([1, T, Hq, Dv], None)`. Raises UnsupportedAttention for what is refused.
    """
    if attention_mask is not None or dropout or softcap or s_aux is not None:
        raise UnsupportedAttention("paged attention computes no mask, dropout, softcap or sinks")
    step = PAGED_STEP.get()
    step.calls += 1
    found = step.input_on(query.device)
    layer_idx = int(module.layer_idx)  # type: ignore[arg-type]
    keys, values = step.cache.write(layer_idx, found.slot_mapping, key, value)
    out = varlen_attention(
        widen(query[0].transpose(0, 1), keys.shape[-1]),
        *(keys, values, found.cu_seq_q, found.cu_seq_k, found.max_q, found.max_k),
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window_size=_window(step.windows.get(layer_idx, sliding_window or 0), found.max_q),
        enable_gqa=query.shape[1] != key.shape[1],
        seqused_k=found.seqused_k,
        block_table=found.block_table,
    )
    return out[None, ..., : value.shape[-1]], None


def _window(window: int, max_q: int) -> tuple[int, int]:
    """The kernel's window for one of `window` keys, the query's own included; 0 is causal.

    A lone query is its sequence's newest, so it needs no causal mask; without one FlashAttention-2 packs grouped heads.
    """
    if window:
        return window - 1, 0
    return (-1, 0) if max_q > 1 else (-1, -1)


AttentionInterface.register(PAGED_ATTENTION_NAME, paged_attention)
