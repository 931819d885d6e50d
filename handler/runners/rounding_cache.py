"""transformers' cache with keys and values rounded to 8 bits, as a runner keeps them: for the trial."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from handler.runners.quantised_keys import dequantise, quantise


class RoundingCache(DynamicCache):
    """Rounds what each layer adds; every layer keeps all of its tokens."""

    def __init__(self, codes: torch.dtype) -> None:
        super().__init__()
        self._codes = codes

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As transformers calls it, with `[batch, num_kv_heads, T, head_dim]`."""
        keys, values = super().update(self._rounded(key_states), self._rounded(value_states), *args, **kwargs)
        return keys, values

    def _rounded(self, heads: Tensor) -> Tensor:
        return dequantise(*quantise(heads, self._codes), heads.dtype)
