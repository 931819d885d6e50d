"""The weights of .gguf files by the names of a transformers model: a `StoredFormat`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from msgspec import structs
from torch import Tensor

from handler.formats.gguf import gpt_oss
from handler.formats.gguf.block_types import BLOCK_TYPES
from handler.formats.gguf.manifest import Manifest, SourceTensor, read_manifest
from handler.formats.gguf.processing import processing_for, row_order
from handler.formats.gguf.tensors import read_tensor
from handler.linears.quantised_weight import Head, QuantisedWeight, cat
from handler.seam.errors import BadModel

# Weights dequantised at a time: what is made on the way stays in the processor's cache.
_PIECE = 1 << 20


class GgufFormat:
    """Reads each weight from the files when it is asked for; holds nothing."""

    def __init__(self, manifest: Manifest) -> None:
        """See `open_gguf`."""
        self._manifest = manifest
        self._processing = processing_for(manifest.architecture, manifest.config, manifest.weights)

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """Every weight of the files, and the tensors it is made of; "" has those that the model has no use for."""
        return self._manifest.weights

    def head(self, name: str) -> Head | None:
        """What `read` gives for the weight `name`, if it is a QuantisedWeight."""
        tensors = [self._manifest.tensors[source] for source in self._manifest.weights[name]]
        first = tensors[0]
        if any(each.kind not in BLOCK_TYPES or each.kind != first.kind for each in tensors):
            return None
        if name not in self._manifest.untouched and self._order(name) is None:
            return None
        rows = sum(each.shape[-2] for each in tensors)
        shape = (*first.shape[:-2], rows, first.shape[-1])
        return Head(shape, BLOCK_TYPES[first.kind].form, sum(each.num_bytes for each in tensors))

    def read(self, name: str) -> QuantisedWeight | Tensor:
        """The weight `name`; a dense one as stored, or in float32. Raises BadModel if a file has become shorter."""
        parts = [self._tensor(source) for source in self._manifest.weights[name]]
        found = self._processed(name, parts)
        return found if isinstance(found, QuantisedWeight) else self.as_held(name, found)

    def as_held(self, name: str, dense: Tensor) -> Tensor:
        """A dense weight `[..., N, K]` as the model has it."""
        is_turned = self._manifest.architecture == gpt_oss.ARCHITECTURE and gpt_oss.is_turned(name)
        return dense.mT.contiguous() if is_turned else dense

    def _processed(self, name: str, parts: list[QuantisedWeight | Tensor]) -> QuantisedWeight | Tensor:
        if name in self._manifest.untouched:
            return parts[0]
        order = self._order(name)
        if order is None:
            sources = self._manifest.weights[name]
            return self._processing.process({source: _dense(part) for source, part in zip(sources, parts, strict=True)})
        joined = _joined(parts)
        return joined.rows(order) if isinstance(joined, QuantisedWeight) else joined[..., order, :]

    def outputs(self, name: str, rows: slice) -> QuantisedWeight:
        """Some outputs of a weight that has a `head`; of an untouched matrix no others are read."""
        head = self.head(name)
        if head is None or name not in self._manifest.untouched or len(head.shape) > 2:
            found = self.read(name)
            assert isinstance(found, QuantisedWeight)
            return found.rows(rows)
        (source,) = self._manifest.weights[name]
        tensor = self._manifest.tensors[source]
        first, last, _ = rows.indices(head.shape[0])
        row = tensor.num_bytes // head.shape[0]
        part = structs.replace(
            tensor,
            shape=(last - first, head.shape[1]),
            offset=tensor.offset + first * row,
            num_bytes=row * (last - first),
        )
        found = self._read(part)
        assert isinstance(found, QuantisedWeight)
        return found

    def dense(self, name: str, dtype: torch.dtype) -> Tensor:
        """A weight that has a `head`, dequantised; of an untouched matrix some outputs at a time."""
        head = self.head(name)
        if head is None or name not in self._manifest.untouched or len(head.shape) > 2:
            found = self.read(name)
            assert isinstance(found, QuantisedWeight)
            return found.dequantise(dtype)
        out = torch.empty(head.shape, dtype=dtype)
        step = max(1, _PIECE // head.shape[1])
        for first in range(0, len(out), step):
            rows = slice(first, first + step)
            out[rows] = self.outputs(name, rows).dequantise(dtype)
        return out

    def _order(self, name: str) -> Tensor | None:
        shapes = {source: self._manifest.tensors[source].shape for source in self._manifest.weights[name]}
        return row_order(self._processing, shapes)

    def _tensor(self, name: str) -> QuantisedWeight | Tensor:
        return self._read(self._manifest.tensors[name])

    def _read(self, tensor: SourceTensor) -> QuantisedWeight | Tensor:
        return read_tensor(tensor, partial(_read, self._manifest.files[tensor.file].path, tensor))


def open_gguf(directory: Path) -> GgufFormat:
    """The weights of the converted checkpoint in `directory`. Raises BadModel."""
    return GgufFormat(read_manifest(directory))


def _read(path: str, tensor: SourceTensor, first: int, count: int) -> Tensor:
    """Bytes of `tensor`. Read, not mapped: pages of the file would count as memory of this process."""
    raw = torch.empty(count, dtype=torch.uint8)
    try:
        with open(path, "rb") as file:
            file.seek(tensor.offset + first)
            found = file.readinto(raw.numpy().data)
    except OSError as exc:
        raise BadModel(f"{path} cannot be read: {exc.strerror}") from exc
    if found != count:
        raise BadModel(f"{path} has become shorter since it was converted")
    return raw


def _joined(parts: list[QuantisedWeight | Tensor]) -> QuantisedWeight | Tensor:
    """One weight of all outputs; dense if the parts have different forms."""
    if len(parts) == 1:
        return parts[0]
    found = [part for part in parts if isinstance(part, QuantisedWeight)]
    joined = cat(found) if len(found) == len(parts) else None
    return torch.cat([_dense(part) for part in parts], -2) if joined is None else joined


def _dense(part: QuantisedWeight | Tensor) -> Tensor:
    return part.dequantise(torch.float32) if isinstance(part, QuantisedWeight) else part.float()
