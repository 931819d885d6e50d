"""Weights in 8-bit floats with a scale for each block, row or tensor: transformers' `fp8`, `mxfp8`, `fbgemm_fp8`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.formats.floats.scaled_floats import ScaledFloats
from handler.formats.name_pattern import matches
from handler.formats.tensor_files import TensorFiles
from handler.seam.errors import BadModel

METHODS = ("fp8", "mxfp8", "fbgemm_fp8")

# transformers' default (FineGrainedFP8Config) where config.json names none.
_BLOCK = (128, 128)
_SCHEMES = ("dynamic", "static")


def reader(values: Mapping[str, Any], tensors: TensorFiles) -> ScaledFloats:
    """The reader for a checkpoint with this `quantization_config`.

    The files say which weights have scales, and in what type: lists of modules and `scale_fmt` are not needed. Raises
    BadModel for values that transformers refuses.
    """
    scheme = values.get("activation_scheme", "dynamic")
    if str(scheme).lower() not in _SCHEMES:
        raise BadModel(f"quantization_config.activation_scheme is {scheme!r}; {' and '.join(_SCHEMES)} are known")
    skipped = [str(each) for each in values.get("modules_to_not_convert") or values.get("ignored_layers") or ()]
    return ScaledFloats(tensors, _block(values), lambda module: is_skipped(module, skipped))


def _block(values: Mapping[str, Any]) -> tuple[int, int]:
    sizes = values.get("weight_block_size", _BLOCK)
    if sizes is None:  # one scale for each tensor
        return _BLOCK
    if not (isinstance(sizes, list | tuple) and len(sizes) == 2 and all(type(s) is int and s > 0 for s in sizes)):
        raise BadModel(f"quantization_config.weight_block_size is {sizes!r}, not two positive integers or null")
    return sizes[0], sizes[1]


def is_skipped(module: str, patterns: list[str]) -> bool:
    """True if transformers leaves `module` dense (should_convert_module): a pattern is its end, or matches its start.

    A match, of a regular expression too, ends at a dot or at the end of the name.
    """
    boundary = r"(?:(?<=\.)|(?=\.|$))"
    return any(module.endswith(each) or matches(f"(?:{each}){boundary}", module) for each in patterns)
