"""One forward pass over a transformers cache, with the arguments that the model's `forward` takes."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from handler.adapters.rows import BASE, AdapterRows, adapter_rows
from handler.model.loader import LoadedModel
from handler.runners.dynamic_cache.rows import attends
from handler.seam.errors import UnsupportedModel

# Families without attention call theirs `cache_params`.
_CACHE_NAMES = ("past_key_values", "cache_params")


class CachedForward:
    """Calls `loaded.model` with ids, positions, mask and cache. Raises UnsupportedModel if it takes no cache."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._takes = frozenset(inspect.signature(loaded.model.forward).parameters)
        found = [name for name in _CACHE_NAMES if name in self._takes]
        if not found:
            raise UnsupportedModel(f"{loaded.model.config.model_type}: its forward takes no transformers cache")
        self._cache_name = found[0]

    def new_cache(self) -> Cache:
        """An empty cache with the layers that the model's configuration asks for."""
        return DynamicCache(config=self._model.config)

    def extend(self, cache: Cache, token_ids: list[int], start: int, keep: int, adapter_slot: int = BASE) -> Tensor:
        """Run `token_ids` at positions `start` on in a cache of one row.

        Returns the logits `[keep, vocab]` of the last `keep` tokens.
        """
        positions = list(range(start, start + len(token_ids)))
        with adapter_rows(self._rows([adapter_slot], len(token_ids), keep)):
            logits = self._call(cache, [token_ids], [positions], None, keep)
        return logits[0]

    def decode(
        self, cache: Cache, token_ids: list[int], lengths: list[int], adapter_slots: list[int] | None = None
    ) -> Tensor:
        """Run one token for each row of a merged cache whose rows hold `lengths` tokens.

        Returns logits `[rows, vocab]`.
        """
        mask = self._padding_mask(lengths) if len(set(lengths)) > 1 and attends(cache) else None
        with adapter_rows(self._rows(adapter_slots or [], 1, 1)):
            logits = self._call(cache, [[i] for i in token_ids], [[n] for n in lengths], mask, 1)
        return logits[:, 0]

    def _rows(self, adapter_slots: list[int], num_tokens: int, keep: int) -> AdapterRows | None:
        """Rows of a pass of `num_tokens` for each slot, of which the last `keep` reach the output layer."""
        if all(slot == BASE for slot in adapter_slots):
            return None
        kept = min(keep, num_tokens) if "logits_to_keep" in self._takes else num_tokens
        slots, outputs = ([slot for slot in adapter_slots for _ in range(count)] for count in (num_tokens, kept))
        return AdapterRows.of(slots, outputs, self._device)

    def _padding_mask(self, lengths: list[int]) -> Tensor:
        """Int64 `[rows, longest + 1]`: 0 in the padding, 1 over a row's tokens and its new one."""
        longest = max(lengths)
        padding = torch.tensor([[longest - length] for length in lengths], device=self._device)
        return (torch.arange(longest + 1, device=self._device)[None] >= padding).long()

    def _call(
        self, cache: Cache, token_ids: list[list[int]], positions: list[list[int]], mask: Tensor | None, keep: int
    ) -> Tensor:
        """Logits `[rows, keep, vocab]`."""
        options = {
            "position_ids": torch.tensor(positions, device=self._device),
            "attention_mask": mask,
            "logits_to_keep": keep,
        }
        logits: Tensor = self._model(
            input_ids=torch.tensor(token_ids, device=self._device),
            use_cache=True,
            **{self._cache_name: cache},
            **{name: value for name, value in options.items() if name in self._takes and value is not None},
        ).logits
        return logits[:, -keep:]
