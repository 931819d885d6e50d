"""Attention over pages: by torch's kernel, or over gathered pages where that does not compute a layer.

Attention sinks (gpt-oss) need no kernel of their own: they scale its output by its log-sum-exp. Sliding windows,
grouped heads and two head sizes are honoured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from handler.runners.attention import LayerTraits
from handler.runners.paged.cache import PagedCache, widen
from handler.runners.paged.gathered import gathered_attention
from handler.runners.paged.input import PagedInput
from handler.runners.paged.varlen import takes_head, varlen_attention
from handler.runners.paged.windows import WindowParts, packing_pays, window_attention, window_parts


@dataclass(slots=True, eq=False)
class PagedStep:
    """`AttentionStep` over pages. `kernel` says whether this device and dtype have one, `packs_windows` whether it
    computes windows in parts; `gathered` whether a layer went without it. `adapter_slots` int32 `[T]`: the adapter of
    each row, -1 for none; None in a step of the base alone."""

    cache: PagedCache
    paged_input: PagedInput
    windows: dict[int, int]
    kernel: bool = True
    packs_windows: bool = False
    adapter_slots: Tensor | None = None
    calls: int = 0
    gathered: bool = False
    _inputs: dict[torch.device, PagedInput] = field(default_factory=dict)
    _parts: dict[torch.device, tuple[PagedInput, ...]] = field(default_factory=dict)
    _window_parts: dict[tuple[torch.device, int], WindowParts] = field(default_factory=dict)

    def attend(self, layer_idx: int, query: Tensor, key: Tensor, value: Tensor, traits: LayerTraits) -> Tensor:
        """As `AttentionStep.attend`."""
        self.cache.write(layer_idx, self._input_on(query.device).slot_mapping, key, value)
        return self.attend_stored(layer_idx, query, traits)[..., : value.shape[-1]]

    def attend_stored(self, layer_idx: int, query: Tensor, traits: LayerTraits) -> Tensor:
        """`attend` for keys and values that are in the cache; `query` `[T, Hq, D]` -> `[T, Hq, the cache's D]`."""
        self.calls += 1
        found = self._input_on(query.device)
        pools = self.cache.layer(layer_idx)
        keys, values = pools[:2]
        window = self.windows.get(layer_idx, traits.window)
        wide = widen(query, keys.shape[-1])
        if self.kernel and not traits.softcap and takes_head(query, keys.shape[-1]):
            return self._by_kernel(wide, keys, values, window, traits)
        self.gathered = True
        return gathered_attention(wide, pools, found, window, traits)

    def _by_kernel(self, query: Tensor, keys: Tensor, values: Tensor, window: int, traits: LayerTraits) -> Tensor:
        """Chunks and decodes apart: beside a chunk, the kernel would not pack the heads of decodes."""
        *decodes, rest = self._parts_on(query.device)
        out = self._one_part(query, keys, values, rest, window, traits)
        for part in decodes:
            rows = slice(0, len(part.seqused_k))
            out[rows].copy_(self._one_part(query[rows], keys, values, part, window, traits))
        return out

    def _one_part(
        self, query: Tensor, keys: Tensor, values: Tensor, part: PagedInput, window: int, traits: LayerTraits
    ) -> Tensor:
        is_decode = bool(window) and part.max_q == 1
        if not (is_decode and self.packs_windows and packing_pays(query, keys.shape[2], window)):
            return _by_kernel(query, keys, values, part, window, traits)
        key = query.device, window
        if key not in self._window_parts:
            self._window_parts[key] = window_parts(part, window, self.cache.page_size)
        return window_attention(query, keys, values, self._window_parts[key], traits)

    def _parts_on(self, device: torch.device) -> tuple[PagedInput, ...]:
        if device not in self._parts:
            self._parts[device] = self._input_on(device).parts()
        return self._parts[device]

    def _input_on(self, device: torch.device) -> PagedInput:
        """The input for a layer on `device`; moved once for each device where a model is spread over several."""
        if device == self.paged_input.slot_mapping.device:
            return self.paged_input
        if device not in self._inputs:
            self._inputs[device] = self.paged_input.on(device)
        return self._inputs[device]


def _by_kernel(
    query: Tensor, keys: Tensor, values: Tensor, found: PagedInput, window: int, traits: LayerTraits
) -> Tensor:
    out, logsumexp = varlen_attention(
        *(query, keys, values, found.cu_seq_q, found.cu_seq_k, found.max_q, found.max_k),
        scale=traits.scale,
        window_size=_window(window, found.max_q),
        enable_gqa=query.shape[1] != keys.shape[2],
        seqused_k=found.seqused_k,
        block_table=found.block_table,
    )
    if traits.sinks is None:
        return out
    # A sink is one more score without a value: it takes exp(sink) of the softmax's exp(logsumexp) + exp(sink).
    share = torch.sigmoid(logsumexp - traits.sinks.float()[:, None]).t()[..., None]
    return (out.float() * share).to(out.dtype)


def _window(window: int, max_q: int) -> tuple[int, int]:
    """The kernel's window for one of `window` keys, the query's own included; 0 is causal.

    A lone query is its sequence's newest, so it needs no causal mask; without one FlashAttention-2 packs grouped heads.
    """
    if window:
        return window - 1, 0
    return (-1, 0) if max_q > 1 else (-1, -1)
