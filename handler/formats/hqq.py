"""HQQ: codes of several places in one octet or word, and zero points that are no integers.

Sources: hqq 0.2.8 (`BitPack`, `HQQLinear.state_dict`), as transformers up to 4 saves its layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from handler.formats.integer_codes import with_zero_points
from handler.formats.tensor_files import TensorFiles
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

METHODS = ("hqq",)
# By packing: bits of a code, codes in an element, its type.
_PACKINGS = {
    "8bit_u8": (8, 1, torch.uint8),
    "4bit_u8": (4, 2, torch.uint8),
    "3bit_32": (3, 10, torch.int32),
    "2bit_u8": (2, 4, torch.uint8),
    "1bit_u8": (1, 8, torch.uint8),
}
_NEEDED = ("W_q", "scale", "zero", "shape", "packing", "axis")
# Settings of a layer, each a tensor.
_SETTINGS = ("nbits", "group_size", "unpack_view_dtype", "view_as_float", "quant_scale", "quant_zero", "compute_dtype")
_FURTHER = ("offload_meta", "encoded_state_dict", "stores_quant_config", "channel_wise", "optimize", "round_zero")
_WAY_OUT = "take a checkpoint of the same model in 16 bits, with HF_MODEL_QUANTIZE=int4 if it must be small"


class HqqFormat:
    """A `StoredFormat`."""

    def __init__(self, tensors: TensorFiles) -> None:
        self._tensors = tensors

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """See `StoredFormat`."""
        modules = [name.removesuffix(".W_q") for name in self._tensors if name.endswith(".W_q")]
        parts = (*_NEEDED, *_SETTINGS, *_FURTHER)
        return {
            f"{module}.weight": tuple(name for part in parts if (name := f"{module}.{part}") in self._tensors)
            for module in modules
        }

    def read(self, name: str) -> QuantisedWeight | Tensor:
        """See `StoredFormat`. Dense unless each group lies in one row of the weight."""
        module = name.removesuffix(".weight")
        for part in _NEEDED:
            if f"{module}.{part}" not in self._tensors:
                raise BadModel(f"the HQQ weight {module} has no {part} in the files; {_WAY_OUT}")
        packed, scale, zero, shape, packing, axis = (self._tensors[f"{module}.{part}"] for part in _NEEDED)
        num_outputs, num_inputs = shape.tolist()
        form = bytes(packing.tolist()).decode("ascii", "replace")
        if form not in _PACKINGS:
            raise BadModel(f"the packing {form} of the HQQ weight {module} is not known; {_WAY_OUT}")
        codes = _unpacked(packed, form, num_outputs * num_inputs)
        bits = _PACKINGS[form][0]
        try:
            if int(axis) == 1 and scale.numel() == codes.shape[0] and num_inputs % codes.shape[1] == 0:
                scale, zero = scale.view(num_outputs, -1), zero.view(num_outputs, -1)
                return with_zero_points(bits, codes.view(num_outputs, num_inputs), scale, zero)
            return ((codes.float() - zero.float()) * scale.float()).view(num_outputs, num_inputs)
        except RuntimeError as exc:
            shapes = ", ".join(str(list(each.shape)) for each in (packed, scale, zero))
            raise BadModel(f"W_q, scale and zero of {module} do not fit together as HQQ: {shapes}; {_WAY_OUT}") from exc


def _unpacked(packed: Tensor, form: str, count: int) -> Tensor:
    """uint8 `[R, C]` with `count` codes: the first rows lie in the highest bits."""
    bits, num, dtype = _PACKINGS[form]
    words = packed.contiguous().view(dtype)
    codes = torch.cat([(words >> bits * place) & (2**bits - 1) for place in reversed(range(num))]).to(torch.uint8)
    return codes[: count // codes.shape[1]]


def reader(values: Mapping[str, Any], tensors: TensorFiles) -> HqqFormat:
    """See `stored_format`. What a layer is stored as is read off its tensors, not off config.json."""
    return HqqFormat(tensors)
