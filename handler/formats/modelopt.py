"""Checkpoints of NVIDIA's ModelOpt: weights in FP8, MXFP8 and NVFP4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.formats.floats.scaled_floats import ScaledFloats
from handler.formats.tensor_files import TensorFiles

METHODS = ("modelopt", "modelopt_fp4")

_BLOCK = (128, 128)


def reader(_values: Mapping[str, Any], tensors: TensorFiles) -> ScaledFloats:
    """The reader for a checkpoint with this `quantization_config`, or `quantization` of hf_quant_config.json.

    The files say which weights have scales, so the list of modules that were left out is not needed.
    """
    return ScaledFloats(tensors, _BLOCK, lambda _: False)
