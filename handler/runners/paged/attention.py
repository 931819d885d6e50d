"""Attention over pages, by `varlen_attention`.

What it cannot compute is refused, and such models run over slots: softcapped scores (Gemma 2) and attention sinks
(gpt-oss). Sliding windows, grouped heads and two head sizes are honoured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from handler.runners.attention import LayerTraits, UnsupportedAttention
from handler.runners.paged.cache import PagedCache, widen
from handler.runners.paged.input import PagedInput
from handler.runners.paged.varlen import varlen_attention


@dataclass(slots=True, eq=False)
class PagedStep:
    """`AttentionStep` over pages."""

    cache: PagedCache
    paged_input: PagedInput
    windows: dict[int, int]
    calls: int = 0
    _inputs: dict[torch.device, PagedInput] = field(default_factory=dict)

    def attend(self, layer_idx: int, query: Tensor, key: Tensor, value: Tensor, traits: LayerTraits) -> Tensor:
        """As `AttentionStep.attend`. Raises UnsupportedAttention for a softcap or sinks."""
        if traits.softcap or traits.sinks is not None:
            raise UnsupportedAttention("paged attention computes no softcap and no sinks")
        self.calls += 1
        found = self._input_on(query.device)
        keys, values = self.cache.write(layer_idx, found.slot_mapping, key, value)
        out = varlen_attention(
            widen(query, keys.shape[-1]),
            *(keys, values, found.cu_seq_q, found.cu_seq_k, found.max_q, found.max_k),
            scale=traits.scale,
            window_size=_window(self.windows.get(layer_idx, traits.window), found.max_q),
            enable_gqa=query.shape[1] != key.shape[1],
            seqused_k=found.seqused_k,
            block_table=found.block_table,
        )
        return out[..., : value.shape[-1]]

    def _input_on(self, device: torch.device) -> PagedInput:
        """The input for a layer on `device`; moved once for each device where a model is spread over several."""
        if device == self.paged_input.slot_mapping.device:
            return self.paged_input
        if device not in self._inputs:
            self._inputs[device] = self.paged_input.on(device)
        return self._inputs[device]


def _window(window: int, max_q: int) -> tuple[int, int]:
    """The kernel's window for one of `window` keys, the query's own included; 0 is causal.

    A lone query is its sequence's newest, so it needs no causal mask; without one FlashAttention-2 packs grouped heads.
    """
    if window:
        return window - 1, 0
    return (-1, 0) if max_q > 1 else (-1, -1)
