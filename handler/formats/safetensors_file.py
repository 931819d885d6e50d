"""A safetensors file that is mapped, whose pages leave memory once their tensor is no longer used.

The library maps files too, but pages that were read stay in the process until the file is closed: a checkpoint would be
in memory twice while its weights are packed. Format: github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import mmap
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F4": torch.float4_e2m1fn_x2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LENGTH_BYTES = 8


class SafetensorsFile:
    """The tensors of one file by name. `location.check_files` has checked that header and length fit."""

    def __init__(self, path: Path) -> None:
        """Raises OSError and ValueError."""
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header: dict[str, Any] = json.loads(file.read(length))
            # Private, so that torch may take it for memory of its own. Nobody writes into a weight that was read.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._entries = header
        self._start = _LENGTH_BYTES + length

    def names(self) -> list[str]:
        """In the order of the header."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor. Of 4-bit floats, `F4`, two are one element of the tensor."""
        return tuple(self._entries[name]["shape"])

    def dtype(self, name: str) -> str:
        """As safetensors names it (`F8_E4M3`), without reading the tensor."""
        return str(self._entries[name]["dtype"])

    def num_bytes(self, name: str) -> int:
        """Size in the file."""
        first, end = self._entries[name]["data_offsets"]
        return int(end - first)

    def tensor(self, name: str) -> Tensor:
        """The tensor, a view of the file. Raises ValueError for a type that torch does not have."""
        if self.dtype(name) not in _DTYPES:
            raise ValueError(f"{name} is of the type {self.dtype(name)}")
        dtype, shape = _DTYPES[self.dtype(name)], self.shape(name)
        if dtype is torch.float4_e2m1fn_x2:
            shape = (*shape[:-1], shape[-1] // 2)
        first, end = self._entries[name]["data_offsets"]
        if first == end:
            return torch.empty(shape, dtype=dtype)
        read = torch.frombuffer(self._map, dtype=torch.uint8, count=end - first, offset=self._start + first)
        if (self._start + first) % dtype.itemsize:
            read = read.clone()
        found = read.view(dtype).view(shape)
        weakref.finalize(found, self._leave, self._start + first, self._start + end)
        return found

    def _leave(self, first: int, end: int) -> None:
        """Take the pages out of memory. Who still has a view of them reads them again."""
        page = first // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, page, end - page)
