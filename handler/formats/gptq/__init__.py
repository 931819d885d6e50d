"""GPTQ: what gptqmodel, AutoGPTQ and optimum write. Files: the usual layout, and that of Marlin's kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.formats.gptq.checkpoint import GptqFormat
from handler.formats.gptq.marlin import MarlinFormat, is_marlin
from handler.formats.tensor_files import TensorFiles

METHODS = ("gptq",)
# By checkpoint_format: zero points are stored minus one; bits of one place lie together (planes).
_FORMATS = {"gptq": (True, False), "gptq_v2": (False, False), "gptq_p": (False, True)}


def reader(values: Mapping[str, Any], tensors: TensorFiles) -> GptqFormat | MarlinFormat:
    """See `stored_format`. Marlin is a layout, and in other checkpoints the kernel that GPTQ's own layout is for."""
    form = str(values.get("checkpoint_format") or values.get("format") or "gptq").lower()
    if form == "marlin" or values.get("is_marlin_format"):
        if is_marlin(tensors):
            return MarlinFormat(tensors)
        form = "gptq"
    minus_one, planar = _FORMATS[form]
    return GptqFormat(tensors, values, minus_one=minus_one, planar=planar)
