"""Weights in 4-bit floats of which 32 share an exponent, as gpt-oss stores its experts: `X_blocks` and `X_scales`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from handler.formats.floats.codes import e2m1_values, scale_values
from handler.formats.integer_codes import unpack
from handler.formats.tensor_files import TensorFiles
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

METHODS = ("mxfp4",)

_BLOCKS, _SCALES = "_blocks", "_scales"
# Bytes of a block: 32 weights (OCP MX 1.0).
_BYTES = 16


class Mxfp4:
    """`StoredFormat`; weights are `[E, N, K]` and `[N, K]`, also where transformers keeps experts as `[E, K, N]`."""

    def __init__(self, tensors: TensorFiles) -> None:
        self._tensors = tensors
        names = [name.removesuffix(_BLOCKS) for name in tensors if name.endswith(_BLOCKS)]
        self._sources = {name: (name + _BLOCKS, name + _SCALES) for name in names}

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """As `StoredFormat`."""
        return self._sources

    def read(self, name: str) -> QuantisedWeight:
        """As `StoredFormat`."""
        blocks_name, scales_name = self._sources[name]
        if scales_name not in self._tensors:
            raise BadModel(f"the weight {name} has {blocks_name} in the checkpoint, and no {scales_name}")
        blocks, scales = self._tensors[blocks_name], self._tensors[scales_name]
        in_bytes = {blocks.dtype, scales.dtype} == {torch.uint8}
        if not in_bytes or scales.dim() < 2 or blocks.shape != (*scales.shape, _BYTES):
            raise BadModel(
                f"{blocks_name} is {_kind(blocks)} and {scales_name} {_kind(scales)}, not bytes of a scale for each "
                f"{_BYTES} bytes"
            )
        codes = unpack(blocks, 4, 2 * _BYTES).flatten(-2)
        return QuantisedWeight(4, codes, scale_values(scales, scales_name), table=e2m1_values())


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def reader(_values: Mapping[str, Any], tensors: TensorFiles) -> Mxfp4:
    """The reader for a checkpoint with this `quantization_config`; the files say which weights are quantised."""
    return Mxfp4(tensors)
