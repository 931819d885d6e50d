"""Checkpoints of NVIDIA's ModelOpt: weights in FP8, MXFP8 and NVFP4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.formats.floats.scaled_floats import ScaledFloats
from handler.formats.tensor_files import TensorFiles
from handler.seam.errors import BadModel

METHODS = ("modelopt", "modelopt_fp4")

# `quant_algo` of the forms that are floats with scales. `MIXED_PRECISION` has one for each of its `quantized_layers`.
_READ = (
    *("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "FP8_PB_REAL", "MXFP8"),
    *("NVFP4", "NVFP4_AWQ", "W4A16_NVFP4", "W4A8_NVFP4_FP8", "MXFP4", "W4A8_MXFP4_FP8"),
)
_BLOCK = (128, 128)


def reader(values: Mapping[str, Any], tensors: TensorFiles) -> ScaledFloats:
    """The reader for a checkpoint with this `quantization_config`, or `quantization` of hf_quant_config.json.

    The files say which weights have scales, so the list of modules that were left out is not needed. Raises BadModel
    for a form that it does not know.
    """
    nested = values.get("quantization", values)
    layers = nested.get("quantized_layers") or {}
    named = [nested.get("quant_algo"), *(each.get("quant_algo") for each in layers.values())]
    unknown = [name for name in named if name is not None and str(name).upper() not in (*_READ, "MIXED_PRECISION")]
    if unknown:
        raise BadModel(f"quantization_config.quant_algo is {unknown[0]!r}; ModelOpt's {', '.join(_READ)} are read here")
    return ScaledFloats(tensors, _BLOCK, lambda _: False)
