"""The tensors behind `SlotManager`: keys and values of every layer, one slot for each running sequence."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.runners.quantised_keys import dequantise, plain, quantise

# Linux's mman-common.h: reserve no swap for the map, most of which is never touched. Python does not define it.
_MAP_NORESERVE = 0x4000
# Scales have one number for each head, so one dimension fewer.
_SCALE_DIMS = 3


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """A layer's keys and values in the cache, read as `dtype`."""

    tensors: tuple[Tensor, ...]
    dtype: torch.dtype

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys."""
        return self.tensors[0].shape[2]

    def read(self, slots: slice, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values of positions `start` to before `end`, each `[slots, end - start, num_kv_heads, head_dim]`."""
        keys, values, *scales = (part[slots, start:end] for part in map(_by_token, self.tensors))
        if not scales:
            return keys, values
        return dequantise(keys, scales[0], self.dtype), dequantise(values, scales[1], self.dtype)


def _by_token(part: Tensor) -> Tensor:
    """Positions as the second dimension, heads as the third: scales have them the other way."""
    return part.transpose(1, 2) if part.ndim == _SCALE_DIMS else part


class SlotCache:
    """Keys and values per layer, each `[num_slots, max_len, num_kv_heads, head_dim]`.

    In 8 bits these are codes, followed by their scales, each float32 `[num_slots, num_kv_heads, max_len]`.

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
        self._layers: dict[int, tuple[Tensor, ...]] = {}
        self._stored: dict[int, tuple[Tensor, ...]] = {}
        self._maps: list[mmap.mmap] = []

    def layer(self, layer_idx: int, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """The layer's keys and values, in 8 bits their scales too.

        `key` and `value` `[T, num_kv_heads, head_dim]` fix the shape once.
        """
        found = self._layers.get(layer_idx)
        if found is None:
            found = self._layers[layer_idx] = self._allocate(key, value, self.num_slots, self.max_len)
            if self.num_stored_pages:
                self._stored[layer_idx] = self._allocate(key, value, self.num_stored_pages, self.page_size)
        return found

    def reader(self, layer_idx: int, dtype: torch.dtype) -> StoredKeys:
        """The layer's keys and values, after its first `write`."""
        return StoredKeys(self._layers[layer_idx], dtype)

    def _allocate(self, key: Tensor, value: Tensor, rows: int, length: int) -> tuple[Tensor, ...]:
        kept = tuple(self._zeros((rows, length, *like.shape[1:]), self.dtype, like.device) for like in (key, value))
        if self.dtype.itemsize > 1:
            return kept
        return *kept, *(self._zeros((rows, part.shape[2], length), torch.float32, part.device) for part in kept)

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        if device.type != "cpu":
            return torch.zeros(shape, dtype=dtype, device=device)
        size = max(1, torch.Size(shape).numel()) * dtype.itemsize
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self._maps.append(memory)
        return torch.frombuffer(memory, dtype=dtype).view(shape)

    def write(self, layer_idx: int, flat_index: Tensor, key: Tensor, value: Tensor) -> None:
        """Store keys and values `[T, num_kv_heads, head_dim]` at `flat_index` `[T]` = slot * max_len + position."""
        keys, values, *scales = self.layer(layer_idx, key, value)
        flat_index = flat_index.to(key.device)
        if scales:
            slot, position = flat_index // self.max_len, flat_index % self.max_len
            key, scales[0][slot, :, position] = quantise(key, self.dtype)
            value, scales[1][slot, :, position] = quantise(value, self.dtype)
            keys, values, key, value = map(plain, (keys, values, key, value))
        keys.view(-1, *keys.shape[2:]).index_copy_(0, flat_index, key)
        values.view(-1, *values.shape[2:]).index_copy_(0, flat_index, value)

    @torch.inference_mode()
    def save_page(self, slot: int, start: int, page: int) -> None:
        """Copy `page_size` tokens of `slot`, from position `start` on, into the store."""
        for layer_idx, stored in self._stored.items():
            for target, source in zip(stored, self._layers[layer_idx], strict=True):
                _by_token(target)[page].copy_(_by_token(source)[slot, start : start + self.page_size])

    @torch.inference_mode()
    def restore_pages(self, pages: list[int], slot: int) -> None:
        """Copy stored pages to the beginning of `slot`, one after the other."""
        length = len(pages) * self.page_size
        for layer_idx, stored in self._stored.items():
            index = torch.tensor(pages, device=stored[0].device)
            for target, source in zip(self._layers[layer_idx], stored, strict=True):
                found = _by_token(plain(source).index_select(0, index).view(source.dtype))
                _by_token(target)[slot, :length].unflatten(0, (len(pages), -1)).copy_(found)

    @torch.inference_mode()
    def erase(self, slot: int, num_tokens: int, first: int = 0) -> None:
        """Zero the first `num_tokens` tokens of a slot, from position `first` on.

        A masked key has weight 0, but 0 times NaN is NaN: a NaN left here would reach the next sequence.
        """
        for parts in self._layers.values():
            for part in parts:
                _by_token(part)[slot, first:num_tokens].zero_()
