"""Checkpoints of torchao whose weights lie plainly: int8, intx in int8, float8 and int4, with scales beside them.

Layout: torchao 0.18, `flatten_tensor_state_dict`. The tensors of a weight `X.weight` are `X._weight_qdata`,
`X._weight_scale` and so on; the class that it was, and its values, are JSON in the metadata of the file.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from handler.formats.floats.codes import float8_codes, scale_values, worth_keeping
from handler.formats.floats.scale_grid import spread
from handler.formats.integer_codes import unpack, with_zero_points
from handler.formats.tensor_files import TensorFiles
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

logger = logging.getLogger(__name__)

METHODS = ("torchao",)

_DATA = re.compile(r"(.+)\._([^.]+)_qdata")
_PARTS = ("qdata", "scale", "zero_point", "act_pre_scale", "act_quant_scale", "act_quant_zero_point")
# Values of the class that say that inputs are rounded too.
_ROUNDS_INPUTS = ("act_quant_kwargs", "activation_quantization")


class TorchAo:
    """`StoredFormat` by the metadata of the files."""

    def __init__(self, tensors: TensorFiles) -> None:
        """Raises BadModel for a weight of a class that is no plain layout."""
        self._tensors = tensors
        metadata = tensors.metadata()
        self._sources: dict[str, tuple[str, ...]] = {}
        self._kinds: dict[str, Mapping[str, Any]] = {}
        for found in filter(None, map(_DATA.fullmatch, tensors)):
            name = f"{found[1]}.{found[2]}"
            parts = (_prefix(name) + part for part in _PARTS)
            self._sources[name] = tuple(part for part in parts if part in tensors)
            self._kinds[name] = _kind(name, metadata.get(name))
        if any(values.get(each) for values in self._kinds.values() for each in _ROUNDS_INPUTS):
            logger.info("torchao would round the inputs of these layers to 8 bits; here they keep their dtype")

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """As `StoredFormat`."""
        return self._sources

    def read(self, name: str) -> QuantisedWeight | Tensor:
        """As `StoredFormat`."""
        prefix = _prefix(name)
        parts = {part.removeprefix(prefix): self._tensors[part] for part in self._sources[name]}
        if "scale" not in parts:
            raise BadModel(f"the weight {name} has no scales in the checkpoint: {prefix}scale is missing")
        values = self._kinds[name]
        weight = _READERS[values["_type"]](name, values, parts)
        inputs = parts.get("act_pre_scale")
        # The product with the scaled inputs is that with weights whose columns are scaled.
        return worth_keeping(weight) if inputs is None else weight.dequantise(torch.float32) * inputs.float()


def _prefix(name: str) -> str:
    """What the tensors of a weight begin with."""
    module, _, weight = name.rpartition(".")
    return f"{module}._{weight}_"


def _kind(name: str, text: str | None) -> Mapping[str, Any]:
    """The values of the class of the weight, its name under `_type`."""
    try:
        values = json.loads(text or "null")
        kind, data = values["_type"], values["_data"]
    except (ValueError, KeyError, TypeError) as exc:
        raise BadModel(f"the metadata of the checkpoint does not say how torchao stores the weight {name}") from exc
    if kind not in _READERS:
        raise BadModel(
            f"the weight {name} is stored as torchao's {kind}, a layout for one kind of device; "
            f"{', '.join(_READERS)} are read here, and the model in 16 bits is quantised by HF_MODEL_QUANTIZE"
        )
    return {**data, "_type": kind}


def _of_int8(name: str, values: Mapping[str, Any], parts: Mapping[str, Tensor]) -> QuantisedWeight:
    """`scale * (q - zero_point)`: Int8Tensor, and IntxUnpackedToInt8Tensor with integers of `target_dtype`."""
    bits = int(str(values.get("target_dtype", {}).get("_data", "int8")).removeprefix("int"))
    data, half = parts["qdata"], 1 << (bits - 1)
    if data.dtype is not torch.int8 or (data.numel() and not -half <= int(data.min()) <= int(data.max()) < half):
        raise BadModel(f"the weight {name} is {data.dtype} or has values beyond {bits} bits")
    codes = (data.view(torch.uint8) ^ 128) - (128 - half)
    scale, points = _scale(name, values, parts["scale"], codes), parts.get("zero_point")
    zeros = torch.zeros_like(scale) if points is None else _scale(name, values, points.float(), codes)
    return with_zero_points(bits, codes, scale, zeros + half)


def _of_int4(name: str, values: Mapping[str, Any], parts: Mapping[str, Tensor]) -> QuantisedWeight:
    """Int4Tensor: `q * scale + zero_point`, whose last two dimensions are `[K / group, N]`."""
    codes = unpack(parts["qdata"], 4, 2 * parts["qdata"].shape[-1]) ^ 8
    turned = {part: parts[part].transpose(-2, -1) for part in ("scale", "zero_point") if part in parts}
    scale, points = _scale(name, values, turned["scale"], codes), turned.get("zero_point")
    minimum = None if points is None or not bool(points.any()) else _scale(name, values, points, codes)
    return QuantisedWeight(4, codes, scale, minimum, zero=8.0)


def _of_float8(name: str, values: Mapping[str, Any], parts: Mapping[str, Tensor]) -> QuantisedWeight:
    codes, table = float8_codes(parts["qdata"], name)
    return QuantisedWeight(8, codes, _scale(name, values, parts["scale"], codes), table=table)


def _scale(name: str, values: Mapping[str, Any], scale: Tensor, codes: Tensor) -> Tensor:
    """A scale or zero point of each block as one of each row and group."""
    sizes = values.get("block_size") or codes.shape
    return spread(scale_values(scale, f"of {name}"), codes.shape, (int(sizes[-2]), int(sizes[-1])), name)


_READERS = {
    "Int8Tensor": _of_int8,
    "IntxUnpackedToInt8Tensor": _of_int8,
    "Float8Tensor": _of_float8,
    "Int4Tensor": _of_int4,
}


def reader(_values: Mapping[str, Any], tensors: TensorFiles) -> TorchAo:
    """The reader for a checkpoint with this `quantization_config`; the files say how each weight is stored."""
    return TorchAo(tensors)
