"""compressed-tensors: what llm-compressor writes. Files: its config groups, codes, scales, and the reader of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.formats.compressed_tensors.checkpoint import CompressedTensors
from handler.formats.compressed_tensors.config_groups import ConfigGroups
from handler.formats.tensor_files import TensorFiles

METHODS = ("compressed-tensors",)


def reader(values: Mapping[str, Any], tensors: TensorFiles) -> CompressedTensors:
    """The reader for a `quantization_config`. Raises BadModel for values that it refuses."""
    return CompressedTensors(ConfigGroups.of(values), tensors)
