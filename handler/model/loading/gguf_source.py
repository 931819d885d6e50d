"""The weights of .gguf files for transformers' loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.formats.gguf.reader import GgufFormat, open_gguf
from handler.model.loading.carried_weight import CarriedWeight, LazyWeight


def gguf_weights(directory: Path, dense: torch.dtype | None) -> dict[str, Any]:
    """The weights of the converted checkpoint in `directory` by name; `[...]` reads one.

    Quantised ones come as `CarriedWeight`, or as tensors of `dense` where it is given. Raises BadModel.
    """
    reader = open_gguf(directory)
    return {name: _GgufWeight(reader, name, dense) for name in reader.sources() if name}


class _GgufWeight:
    """Stands for a slice of a safetensors file."""

    def __init__(self, reader: GgufFormat, name: str, dense: torch.dtype | None) -> None:
        self._reader = reader
        self._name = name
        self._dense = dense

    def __getitem__(self, index: object) -> Tensor | CarriedWeight:
        head = self._reader.head(self._name)
        if head is None:
            found = self._reader.read(self._name)
            assert isinstance(found, Tensor)
            return found
        if self._dense is not None:
            return self._reader.dense(self._name, self._dense)
        return LazyWeight(head, self._reader, self._name, torch.float32)
