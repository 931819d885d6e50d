"""The tensors behind `SlotManager`: keys and values of every layer, one slot for each running sequence."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

# Linux's mman-common.h: reserve no swap for the map, most of which is never touched. Python does not define it.
_MAP_NORESERVE = 0x4000


class SlotCache:
    """Keys and values per layer, each `[num_slots, max_len, num_kv_heads, head_dim]`.

    A layer's tensors are made at its first use, when the model shows its head count, its sizes and the layer's device,
    so any family fits, also one that is spread over several GPUs. On CPU they are anonymous memory maps: zero-filled,
    and resident only as far as sequences have written.
    """

    def __init__(
        self,
        num_slots: int,
        max_len: int,
        dtype: torch.dtype,
        device: torch.device,
        num_stored_pages: int = 0,
        page_size: int = 32,
    ) -> None:
        """`num_stored_pages` pages of `page_size` tokens are kept beside the slots, for prefix reuse."""
        self.num_slots = num_slots
        self.max_len = max_len
        self.dtype = dtype
        self.device = device
        self.num_stored_pages = num_stored_pages
        self.page_size = page_size
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}
        self._maps: list[mmap.mmap] = []

    def layer(self, layer_idx: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's keys and values; `key` and `value` `[T, num_kv_heads, head_dim]` fix the shape once."""
        found = self._layers.get(layer_idx)
        if found is None:
            found = (
                self._allocate(key, self.num_slots, self.max_len),
                self._allocate(value, self.num_slots, self.max_len),
            )
            self._layers[layer_idx] = found
            if self.num_stored_pages:
                pages = (self.num_stored_pages, self.page_size)
                self._stored[layer_idx] = (self._allocate(key, *pages), self._allocate(value, *pages))
        return found

    def _allocate(self, like: Tensor, rows: int, length: int) -> Tensor:
        shape = (rows, length, *like.shape[1:])
        if like.device.type != "cpu":
            return torch.zeros(shape, dtype=self.dtype, device=like.device)
        size = max(1, torch.Size(shape).numel()) * self.dtype.itemsize
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self._maps.append(memory)
        return torch.frombuffer(memory, dtype=self.dtype).view(shape)

    def write(self, layer_idx: int, flat_index: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values `[T, num_kv_heads, head_dim]` at `flat_index` `[T]` = slot * max_len + position."""
        keys, values = self.layer(layer_idx, key, value)
        flat_index = flat_index.to(key.device)
        keys.view(-1, *keys.shape[2:]).index_copy_(0, flat_index, key)
        values.view(-1, *values.shape[2:]).index_copy_(0, flat_index, value)
        return keys, values

    @torch.inference_mode()
    def save_page(self, slot: int, start: int, page: int) -> None:
        """Copy `page_size` tokens of `slot`, from position `start` on, into the store."""
        for layer_idx, stored in self._stored.items():
            for target, source in zip(stored, self._layers[layer_idx], strict=True):
                target[page].copy_(source[slot, start : start + self.page_size])

    @torch.inference_mode()
    def restore_pages(self, pages: list[int], slot: int) -> None:
        """Copy stored pages to the beginning of `slot`, one after the other."""
        length = len(pages) * self.page_size
        for layer_idx, stored in self._stored.items():
            index = torch.tensor(pages, device=stored[0].device)
            for target, source in zip(self._layers[layer_idx], stored, strict=True):
                target[slot, :length].view(len(pages), *source.shape[1:]).copy_(source.index_select(0, index))

    @torch.inference_mode()
    def erase(self, slot: int, num_tokens: int, first: int = 0) -> None:
        """Zero the first `num_tokens` tokens of a slot, from position `first` on.

        A masked key has weight 0, but 0 times NaN is NaN: a NaN left here would reach the next sequence.
        """
        for keys, values in self._layers.values():
            keys[slot, first:num_tokens].zero_()
            values[slot, first:num_tokens].zero_()
