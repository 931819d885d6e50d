"""The tensors behind `BlockManager`: keys and values of every layer, in pages that any sequence may hold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.runners.paged.varlen import HEAD_DIM_MULTIPLE
from handler.runners.quantised_keys import plain, quantise


class PagedCache:
    """Keys and values per layer, each `[num_pages + 1, page_size, num_kv_heads, D]`; page 0 is the trash page.

    In 8 bits these are codes, followed by their scales, each float32 `[num_pages + 1, page_size, num_kv_heads]`.

    A layer's tensors are made at its first use, when the model shows its head count and sizes, on the layer's device,
    which differs from layer to layer where a model is spread over several GPUs. The kernel knows one
    head size only, so D is the larger of keys' and values' (MLA has two), rounded up, and the rest is zeros.
    """

    def __init__(self, num_pages: int, page_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.dtype = dtype
        self.device = device
        self._layers: dict[int, tuple[Tensor, ...]] = {}

    def write(self, layer_idx: int, slot_mapping: Tensor, key: Tensor, value: Tensor) -> None:
        """Store `key`, `value` `[T, num_kv_heads, Dk or Dv]` at `slot_mapping`.

        `slot_mapping` int64 `[T]` is page * page_size + offset of each token. Capturable after the first call.
        """
        parts = self.made(layer_idx, key.shape[1], max(key.shape[2], value.shape[2]), key.device)
        new = [widen(part, parts[0].shape[-1]) for part in (key, value)]
        if self.dtype.itemsize == 1:
            (keys, of_keys), (values, of_values) = (quantise(part, self.dtype) for part in new)
            parts, new = tuple(map(plain, parts)), [plain(keys), plain(values), of_keys, of_values]
        for part, rows in zip(parts, new, strict=True):
            part.flatten(0, 1).index_copy_(0, slot_mapping, rows)

    def layer(self, layer_idx: int) -> tuple[Tensor, ...]:
        """A layer's keys and values, in 8 bits their scales too. Raises KeyError before its first `write`."""
        return self._layers[layer_idx]

    def made(self, layer_idx: int, num_kv_heads: int, head_dim: int, device: torch.device) -> tuple[Tensor, ...]:
        """A layer's tensors, made now if it has none yet; `head_dim` is the wider of keys' and values'."""
        found = self._layers.get(layer_idx)
        if found is None:
            width = -(-head_dim // HEAD_DIM_MULTIPLE) * HEAD_DIM_MULTIPLE
            shape = (self.num_pages + 1, self.page_size, num_kv_heads, width)
            keys = torch.zeros(shape, dtype=self.dtype, device=device)
            found = (keys, torch.zeros_like(keys))
            if self.dtype.itemsize == 1:
                scales = torch.zeros(shape[:-1], device=device)
                found = (*found, scales, torch.zeros_like(scales))
            self._layers[layer_idx] = found
        return found


def widen(heads: Tensor, head_dim: int) -> Tensor:
    """Zeros after the last dimension, up to `head_dim`."""
    missing = head_dim - heads.shape[-1]
    return F.pad(heads, (0, missing)) if missing else heads
