"""The weights of .gguf files for transformers' loading."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.formats.gguf.block_types import BLOCK_TYPES
from handler.formats.gguf.manifest import Manifest, read_manifest
from handler.formats.gguf.reader import GgufFormat, open_gguf
from handler.model.loading.carried_weight import CarriedWeight, LazyWeight

logger = logging.getLogger(__name__)

_FLOATS = {"F64", "F32", "F16", "BF16"}


def gguf_weights(directory: Path, dense: torch.dtype | None) -> dict[str, Any]:
    """The weights of the converted checkpoint in `directory` by name; `[...]` reads one.

    Quantised ones come as `CarriedWeight`, or as tensors of `dense` where it is given. Raises BadModel.
    """
    reader = open_gguf(directory)
    _report(read_manifest(directory))
    return {name: _GgufWeight(reader, name, dense) for name in reader.sources() if name}


def _report(manifest: Manifest) -> None:
    """Name the types that no kernel multiplies: they take two or four bytes a weight."""
    kinds = Counter(tensor.kind for tensor in manifest.tensors.values())
    dense = {kind: count for kind, count in kinds.items() if kind not in BLOCK_TYPES and kind not in _FLOATS}
    if dense:
        named = ", ".join(f"{count} of {kind}" for kind, count in sorted(dense.items()))
        logger.info("weights of the file are dequantised at the start, as no kernel here multiplies them: %s", named)


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
            return self._reader.as_held(self._name, self._reader.dense(self._name, self._dense))
        return LazyWeight(head, self._reader, self._name, torch.float32)
