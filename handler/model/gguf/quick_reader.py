"""`QuickReader`: `gguf.GGUFReader`, but long arrays of metadata take milliseconds, for us and for transformers.

The package (0.19) makes four numpy views of the mapped file for each token of the vocabulary, and transformers (5.23)
opens a file anew for each question: 5 of the 9 seconds that a conversion took. transformers also builds gguf's table of
tensor names once for each module of the model.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType

from handler.formats.gguf import gpt_oss

# Bytes of an array's head: the type of its elements, and how many there are.
_HEAD = struct.Struct("<IQ")
_LENGTH = struct.Struct("<Q")


class QuickReader(GGUFReader):
    """With the same fields. The elements of an array are views that numpy has no part in."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
            return super()._get_field_parts(orig_offs, raw_type)
        data: Any = self.data
        kind, count = _HEAD.unpack_from(data, orig_offs)
        element, start = GGUFValueType(kind), int(orig_offs) + _HEAD.size
        dtype = self.gguf_scalar_to_np.get(element)
        if element == GGUFValueType.STRING:
            values, size = _strings(memoryview(data), start, count)
        elif dtype is not None:
            size = count * np.dtype(dtype).itemsize
            if start + size > len(data):
                raise ValueError("an array of the file's metadata ends behind the file")
            values = [*np.array(self.data[start : start + size]).view(dtype).reshape(-1, 1)]
        else:
            return super()._get_field_parts(orig_offs, raw_type)
        types = [GGUFValueType.ARRAY, *([element] if count else [])]
        return _HEAD.size + size, values, list(range(count)), types


def _strings(data: memoryview, start: int, count: int) -> tuple[list[Any], int]:
    """The bytes of each of `count` strings that begin at `start`, and how many bytes they take with their lengths."""
    found, place = [], start
    for _ in range(count):
        first = place + _LENGTH.size
        place = first + _LENGTH.unpack_from(data, place)[0]
        if place > len(data):
            raise ValueError("a string of the file's metadata ends behind the file")
        found.append(data[first:place])
    return found, place - start


class _TransformersReader(QuickReader):
    """Without the values at which transformers (5.24) fails, each time: those of gpt-oss's rotary frequencies."""

    def __init__(self, path: Any) -> None:
        super().__init__(path)
        for key in [key for key in self.fields if key.startswith(f"{gpt_oss.ARCHITECTURE}.rope.scaling.")]:
            del self.fields[key]


@contextmanager
def reading_quickly() -> Iterator[None]:
    """While the block runs, transformers opens files with `QuickReader`, each once, and builds each table once."""
    reader, table = gguf.GGUFReader, gguf.get_tensor_name_map
    names: Any = gguf
    names.GGUFReader, names.get_tensor_name_map = functools.cache(_TransformersReader), functools.cache(table)
    try:
        yield
    finally:
        names.GGUFReader, names.get_tensor_name_map = reader, table
