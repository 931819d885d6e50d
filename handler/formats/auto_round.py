"""AutoRound: the tensors of GPTQ or AWQ, by their packing. Sources: auto-round 0.2 to 0.16 (`export_to_autoround`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.formats import awq
from handler.formats.gptq.checkpoint import GptqFormat
from handler.formats.stored_format import StoredFormat
from handler.formats.tensor_files import TensorFiles
from model_memory.stored_codes import AUTO_ROUND, AUTO_ROUND_AWQ, AUTO_ROUND_GPTQ, auto_round_packing

METHODS = AUTO_ROUND


def reader(values: Mapping[str, Any], tensors: TensorFiles) -> StoredFormat:
    """See `stored_format`."""
    packing = auto_round_packing(values)
    if packing in AUTO_ROUND_AWQ:
        return awq.reader({**values, "version": "gemm"}, tensors)
    return GptqFormat(tensors, values, minus_one=packing in AUTO_ROUND_GPTQ, planar=False)
