"""Checkpoints that bitsandbytes has quantised: 4 bits in blocks, and 8 bits with a scale for each output.

Layout of the 4-bit forms: bitsandbytes 0.50, `QuantState.as_dict` and `kDequantizeBlockwise`; of the 8-bit form:
`Linear8bitLt._save_to_state_dict` and `int8_vectorwise_dequant`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from handler.formats.floats.codes import worth_keeping
from handler.formats.tensor_files import TensorFiles
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

logger = logging.getLogger(__name__)

METHODS = ("bitsandbytes",)

_STATE = ".quant_state.bitsandbytes__"
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_SCALE, _LAYOUT = "SCB", "weight_format"
# Of `weight_format`: rows. bitsandbytes below 0.45 had three layouts of GPUs beside it.
_ROWS = 0
# Above it features are outliers, and transformers' default where config.json names none.
OUTLIERS_FROM, _USUAL_OUTLIERS = "llm_int8_threshold", 6.0
_INT8_ZERO, _INT8_LARGEST = 128, 127


class BitsAndBytes:
    """`StoredFormat`. Outliers of activations (`llm_int8_threshold`) have no part in these weights."""

    def __init__(self, tensors: TensorFiles) -> None:
        self._tensors = tensors
        self._sources: dict[str, tuple[str, ...]] = {}
        for name in tensors:
            weight, is_state, _ = name.partition(_STATE)
            module = name.removesuffix(_SCALE)
            if is_state:
                parts = (f"{weight}.{part}" for part in _PARTS)
                self._sources[weight] = (weight, name, *(part for part in parts if part in tensors))
            elif name.endswith(f".{_SCALE}") and f"{module}weight" in tensors:
                layout = f"{module}{_LAYOUT}"
                self._sources[f"{module}weight"] = (f"{module}weight", name, *([layout] if layout in tensors else []))

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """As `StoredFormat`."""
        return self._sources

    def read(self, name: str) -> QuantisedWeight | Tensor:
        """As `StoredFormat`."""
        weight_name, form_name, *parts = self._sources[name]
        if weight_name not in self._tensors:
            raise BadModel(f"the checkpoint has {form_name} without {weight_name}")
        read = {part.rpartition(".")[2]: self._tensors[part] for part in parts}
        weight = self._tensors[weight_name]
        if _STATE in form_name:
            state = _State(form_name, self._tensors[form_name])
            return worth_keeping(_of_4_bits(name, weight, state, read))
        return _of_8_bits(name, weight, self._tensors[form_name], read.get(_LAYOUT))


class _State:
    """The values of `quant_state`, JSON in bytes. Raises BadModel for those that are missing or impossible."""

    def __init__(self, name: str, stored: Tensor) -> None:
        try:
            values = json.loads(bytes(stored.tolist()))
            self.shape = tuple(int(size) for size in values["shape"])
            self.block = int(values["blocksize"])
            self.nested_block = int(values.get("nested_blocksize") or 0)
            self.offset = float(values.get("nested_offset") or 0.0)
        except (ValueError, KeyError, TypeError) as exc:
            raise BadModel(f"{name} in the checkpoint is not bitsandbytes' description of a weight: {exc!r}") from exc
        if len(self.shape) < 2 or self.block < 1 or min(self.shape) < 1:
            raise BadModel(f"{name} in the checkpoint has the shape {self.shape} and blocks of {self.block}")


def _of_4_bits(name: str, weight: Tensor, state: _State, parts: Mapping[str, Tensor]) -> QuantisedWeight:
    """Blocks lie in the flattened matrix and may cross its rows; a scale belongs to what no block's end divides."""
    packed = weight.contiguous().view(torch.uint8).flatten()  # stored in any type: bnb_4bit_quant_storage
    count, table = math.prod(state.shape), parts.get("quant_map")
    scale = _absmax(name, state, parts)
    if (
        table is None
        or table.numel() != 16
        or packed.numel() != -(-count // 2)
        or len(scale) != -(-count // state.block)
    ):
        raise BadModel(
            f"the weight {name} of {state.shape} is stored in {packed.numel()} bytes with {len(scale)} scales for "
            f"blocks of {state.block}, which does not fit"
        )
    # The first of two codes is in the high four bits.
    codes = torch.stack([packed >> 4, packed & 15], -1).flatten()[:count].view(state.shape)
    group = math.gcd(state.shape[-1], state.block)
    scales = scale.repeat_interleave(state.block // group)[: count // group].view(*state.shape[:-1], -1)
    return QuantisedWeight(4, codes, scales.contiguous(), table=table.float())


def _absmax(name: str, state: _State, parts: Mapping[str, Tensor]) -> Tensor:
    """The scale of each block, float32; in bytes it is itself quantised in blocks (double quantisation)."""
    found, nested, table = (parts.get(part) for part in ("absmax", "nested_absmax", "nested_quant_map"))
    if found is None:
        raise BadModel(f"the weight {name} has no scales in the checkpoint: {name}.absmax is missing")
    if found.dtype is torch.uint8:
        fits = nested is not None and table is not None and table.numel() == 256 and state.nested_block > 0
        if nested is None or table is None or not fits or len(nested) * state.nested_block < len(found):
            raise BadModel(f"the scales of the weight {name} are quantised, and {name}.nested_absmax does not fit them")
        spread = nested.float().repeat_interleave(state.nested_block)[: len(found)]
        found = table.float()[found.int()] * spread + state.offset
    scale = found.float().flatten()
    if not bool(scale.isfinite().all()):
        raise BadModel(f"the scales of the weight {name} hold NaN or infinity")
    return scale


def _of_8_bits(name: str, weight: Tensor, scale: Tensor, layout: Tensor | None) -> QuantisedWeight:
    if layout is not None and int(layout) != _ROWS:
        raise BadModel(
            f"the weight {name} is stored in the layout {int(layout)} of an older bitsandbytes for one kind of GPU; "
            "save the model again with bitsandbytes 0.45 or later"
        )
    if weight.dtype is not torch.int8 or weight.dim() != 2 or scale.numel() != weight.shape[0]:
        raise BadModel(f"the weight {name} is {weight.dtype} {list(weight.shape)} with {scale.numel()} scales")
    scales = scale.float().reshape(-1, 1) / _INT8_LARGEST
    if not bool(scales.isfinite().all()):
        raise BadModel(f"the scales of the weight {name} hold NaN or infinity")
    codes = weight.view(torch.uint8) ^ _INT8_ZERO  # two's complement plus 128
    return QuantisedWeight(8, codes, scales, zero=float(_INT8_ZERO))


def outliers_from(values: Mapping[str, Any]) -> float:
    """`llm_int8_threshold` of a `quantization_config`; 0 where nothing is computed in 8 bits, or no outliers are."""
    threshold: float = values.get(OUTLIERS_FROM, _USUAL_OUTLIERS) if values.get("load_in_8bit") else 0.0
    return threshold


def reader(values: Mapping[str, Any], tensors: TensorFiles) -> BitsAndBytes:
    """The reader for a checkpoint with this `quantization_config`; the files say which weights are quantised, and how.

    bitsandbytes would choose outliers of inputs from the whole batch (docs/decisions/0012); here inputs are not
    rounded, so there are none.
    """
    if threshold := outliers_from(values):
        logger.info("%s=%s of config.json is not used: inputs are not rounded to 8 bits", OUTLIERS_FROM, threshold)
    return BitsAndBytes(tensors)
