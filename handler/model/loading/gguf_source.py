"""The weights of .gguf files for transformers' loading."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.formats.gguf.reader import GgufFormat, open_gguf
from handler.linears.quantised_weight import QuantisedWeight
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
        head = self._reader.head(self._name) if self._dense is None else None
        if head is not None:
            read: Any = partial(self._reader.read, self._name)
            return LazyWeight(head, read, partial(self._reader.outputs, self._name), torch.float32)
        found = self._reader.read(self._name)
        if isinstance(found, QuantisedWeight):
            return found.dequantise(self._dense or torch.float32)
        return found
