"""`ScaledFloats`: float weights of 8 or 4 bits, each beside the tensor of its scales."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from handler.formats.floats.codes import e2m1_values, float8_codes, scale_values, worth_keeping
from handler.formats.floats.scale_grid import spread
from handler.formats.integer_codes import unpack
from handler.formats.tensor_files import TensorFiles
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

logger = logging.getLogger(__name__)

# The scale of a weight `X`, of any name or of a linear layer's `X.weight`. The last two are DeepSeek-V4's and
# Mistral Large 4's.
_SCALES = ("{0}_scale_inv", "{0}_scale", "{0}_weight_scale", "{1}.scale", "{1}.qscale_weight")
_SURELY_SCALES = ("_scale_inv", ".weight_scale", ".qscale_weight")
# A second scale, of the whole tensor (NVFP4), and what inputs are multiplied by (ModelOpt's AWQ).
_INPUT_SCALE = ".pre_quant_scale"
_GLOBAL, _INPUTS = ("{0}_scale_2", "{0}_weight_scale_2"), (f"{{1}}{_INPUT_SCALE}",)
# Scales of activations and of the KV cache, and the latter's means.
_UNUSED = (
    *(".activation_scale", "_activation_scale", ".input_scale", "_input_scale", ".input_scale_ub", ".qscale_act"),
    *(".k_scale", ".v_scale", ".q_scale", ".prob_scale", ".output_scale", "k_proj.k_bias", "v_proj.v_bias"),
)
_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_FLOAT4 = "F4"
# Two 4-bit floats in a byte.
_PACKED = ("I8", "U8", _FLOAT4)


class ScaledFloats:
    """`StoredFormat` by what the files hold: a weight is quantised if it is a small float and has scales."""

    def __init__(self, tensors: TensorFiles, block: tuple[int, int], is_dense: Callable[[str], bool]) -> None:
        """`block` is the usual block of rows and columns. `is_dense(module)` is true where no scale is needed.

        Raises BadModel for a weight in float8 or float4 without scales.
        """
        self._tensors, self._block = tensors, block
        self._sources: dict[str, tuple[str, ...]] = {}
        unused = {name: None for name in tensors if name.endswith(_UNUSED)}
        for name in tensors:
            scales = [scale for scale in _found(tensors, name, _SCALES) if scale not in unused]
            if scales and tensors.dtype(name) in (*_FLOAT8, *_PACKED):
                self._sources[name] = (name, scales[0], *_found(tensors, name, (*_GLOBAL, *_INPUTS)))
            else:  # the weight itself was left dense
                unused |= dict.fromkeys(scale for scale in scales if scale.endswith(_SURELY_SCALES))
        read = {source for sources in self._sources.values() for source in sources}
        for name in tensors:
            alone = name not in read and name not in unused and tensors.dtype(name) in (*_FLOAT8, _FLOAT4)
            if alone and not is_dense(_module(name)):
                raise BadModel(f"the weight {name} is stored in small floats, and no scale for it is in the checkpoint")
        if unused:
            self._sources[""] = tuple(unused)
            logger.info("%d stored scales of activations and of the KV cache are not used", len(unused))

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """As `StoredFormat`."""
        return self._sources

    def read(self, name: str) -> QuantisedWeight | Tensor:
        """As `StoredFormat`."""
        stored, scale_name, *others = self._sources[name]
        weight, scale = self._tensors[stored], self._scale(scale_name)
        inputs = [self._scale(other) for other in others if other.endswith(_INPUT_SCALE)]
        for other in (self._scale(other) for other in others if not other.endswith(_INPUT_SCALE)):
            scale = scale * other.reshape(*other.shape, *[1] * (scale.dim() - other.dim()))
        if self._tensors.dtype(stored) in _PACKED:
            codes, table, bits = unpack(weight.view(torch.uint8), 4, 2 * weight.shape[-1]), e2m1_values(), 4
        else:
            (codes, table), bits = float8_codes(weight, name), 8
        found = QuantisedWeight(bits, codes, spread(scale, codes.shape, self._block, name), table=table)
        # The product with the scaled inputs is that with weights whose columns are scaled.
        return found.dequantise(torch.float32) * inputs[0] if inputs else worth_keeping(found)

    def _scale(self, name: str) -> Tensor:
        return scale_values(self._tensors[name], name)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _found(tensors: TensorFiles, name: str, patterns: tuple[str, ...]) -> list[str]:
    """Names of `patterns` that are in the files, for the weight `name`."""
    module = _module(name) if name.endswith(".weight") else "\0"
    return [found for found in (pattern.format(name, module) for pattern in patterns) if found in tensors]
