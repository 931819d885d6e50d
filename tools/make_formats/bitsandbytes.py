"""bitsandbytes through transformers, as a user saves a model: 4 bits with and without double quantisation, 8 bits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.functional import dequantize_blockwise, int8_vectorwise_dequant
from torch import Tensor
from transformers import BitsAndBytesConfig

from tools.make_formats import base as dense_model

LIBRARIES = ("bitsandbytes",)

# The products of bitsandbytes' 4-bit layers want multiples of 64; the blocks of `odd` cross the rows.
_SMALL = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
_ODD = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32}


def _write(values: dict[str, Any], sizes: dict[str, Any], _: Path, target: Path) -> None:
    dense_model.write_by_transformers(BitsAndBytesConfig(**values), sizes, target, _dequantised)


def _dequantised(weight: Any) -> Tensor:
    """By the library's general function: that for CPUs misreads blocks that cross rows (bitsandbytes 0.50.2)."""
    if weight.dtype is torch.int8:
        eight: Tensor = int8_vectorwise_dequant(weight.data, weight.SCB)
        return eight
    state = weight.quant_state
    scale = state.absmax
    if state.nested:
        scale = dequantize_blockwise(state.absmax, state.state2) + state.offset
    packed = weight.data.flatten()
    with torch.compiler.set_stance("force_eager"):
        four: Tensor = _dequantize_4bit_compute(packed, scale, state.code, state.blocksize, state.shape, torch.float32)
    return four


_NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}

WRITERS = {
    "bitsandbytes-nf4": partial(_write, _NF4, _SMALL),
    "bitsandbytes-nf4-nested": partial(_write, {**_NF4, "bnb_4bit_use_double_quant": True}, _SMALL),
    "bitsandbytes-nf4-odd": partial(_write, _NF4, _ODD),
    "bitsandbytes-fp4": partial(_write, {**_NF4, "bnb_4bit_quant_type": "fp4"}, _SMALL),
    "bitsandbytes-int8": partial(_write, {"load_in_8bit": True}, _SMALL),
}
