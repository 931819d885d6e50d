"""AutoRound: the tensors of GPTQ or AWQ, by their packing. Sources: auto-round 0.2 to 0.16 (`export_to_autoround`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.formats import awq
from handler.formats.gptq import GptqFormat
from handler.formats.stored_format import StoredFormat
from handler.formats.tensor_files import TensorFiles
from handler.seam.errors import BadModel
from model_memory.stored_codes import (
    AUTO_ROUND,
    AUTO_ROUND_AWQ,
    AUTO_ROUND_GPTQ,
    AUTO_ROUND_PLAIN,
    auto_round_packing,
)

METHODS = AUTO_ROUND
_WAY_OUT = (
    "take a checkpoint of the same model in the packing auto_round:auto_gptq or auto_round:auto_awq, or in 16 bits"
)


def reader(values: Mapping[str, Any], tensors: TensorFiles) -> StoredFormat:
    """See `stored_format`. Raises BadModel for the packings of floats (mxfp4, nvfp4, fp8) and of other libraries."""
    packing = auto_round_packing(values)
    data_type = str(values.get("data_type") or "int")
    if turned := [key for key in ("rotation_config", "spinquant_config") if values.get(key)]:
        raise BadModel(f"the AutoRound weights are rotated ({turned[0]}), which no layer undoes; {_WAY_OUT}")
    if int(values.get("act_bits") or 16) < 16:
        raise BadModel(f"AutoRound's activations in {values['act_bits']} bits are not computed; {_WAY_OUT}")
    if packing in AUTO_ROUND_AWQ:
        return awq.reader({**values, "version": "gemm"}, tensors)
    if packing not in (*AUTO_ROUND_PLAIN, *AUTO_ROUND_GPTQ) or not data_type.startswith("int"):
        raise BadModel(f"AutoRound's packing_format {packing} of {data_type} is not known; {_WAY_OUT}")
    return GptqFormat(tensors, values, minus_one=packing in AUTO_ROUND_GPTQ, planar=False)
