"""Quantises linear layers to 4 or 8 bits on the GPU while transformers loads them, one after the other.

transformers calls the quantiser for each weight, on the device, before it reads the next: beside what is loaded, one
dense weight is in memory at a time.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from handler.linears.int4_linear import MAX_PACKED_ROWS, Int4Linear, fits_int4, int4_bytes
from handler.linears.linear import is_plain
from handler.linears.packed_model import OUTPUT_BITS, TOLERANCE
from handler.linears.weight_blocks import quantise

logger = logging.getLogger(__name__)

_NAME = "tgi-heir-blocks"
# Outputs of a layer whose products are compared.
_COMPARED = 64


@register_quantization_config(_NAME)
class BlocksConfig(QuantizationConfigMixin):
    """What `from_pretrained` is given: linear layers in `bits`, an output layer of its own in 8."""

    def __init__(self, bits: int) -> None:
        """`bits` is 4 or 8."""
        self.quant_method: Any = _NAME
        self.bits = bits


@register_quantizer(_NAME)
class _BlocksQuantizer(HfQuantizer):
    """Decides which weights are quantised when the model is on the meta device; `_Quantise` does it."""

    def __init__(self, quantization_config: Any, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self._bits = int(quantization_config.bits)
        # By the weight's name. A layer that turns out not to fit is taken out.
        self.bits: dict[str, int] = {}
        self.passed: dict[int, bool] = {}

    def _process_model_before_weight_loading(self, model: Any, **options: Any) -> None:
        output = model.get_output_embeddings()
        tied = model.all_tied_weights_keys or {}
        in_float32 = tuple(model._keep_in_fp32_modules or ())
        left = []
        for name, linear in model.named_modules():
            # The input embedding keeps a tied weight in memory anyway.
            if not is_plain(linear) or f"{name}.weight" in tied or any(part in name for part in in_float32):
                continue
            if fits_int4(linear.out_features, linear.in_features):
                self.bits[f"{name}.weight"] = OUTPUT_BITS if linear is output else self._bits
            else:
                left.append(f"{name} ({linear.out_features} x {linear.in_features})")
        if left:
            logger.warning(
                "%d linear layers stay unquantised, their shape is no multiple of 8 x 32: %s",
                *(len(left), ", ".join(left)),
            )

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        return param_name in self.bits

    def param_element_size(self, model: Any, param_name: str, param: Tensor) -> float:
        bits = self.bits.get(param_name)
        return param.element_size() if bits is None else int4_bytes(bits)

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantise(self)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        count = sum(isinstance(module, Int4Linear) for module in model.modules())
        logger.info("%d linear layers quantised to %d bits on the GPU", count, self._bits)
        # To transformers the model is an ordinary one from here on.
        self.remove_quantization_config(model)  # type: ignore[no-untyped-call]
        return model

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


class _Quantise(ConversionOps):
    """Puts an `Int4Linear` in the place of the layer whose weight has been read; no weight remains to be set."""

    def __init__(self, quantizer: _BlocksQuantizer) -> None:
        self._quantizer = quantizer

    def convert(self, input_dict: dict[str, Any], *_: Any, **given: Any) -> dict[str, Any]:
        model, missing_keys = given["model"], given.get("missing_keys")
        remaining: dict[str, Any] = {}
        for name, value in input_dict.items():
            weight: Tensor = value[0] if isinstance(value, list) else value
            if not self._replaces(model, name, weight):
                self._quantizer.bits.pop(name, None)
                remaining[name] = weight
            elif missing_keys is not None:
                missing_keys.discard(name)
        return remaining

    def _replaces(self, model: nn.Module, name: str, weight: Tensor) -> bool:
        path, _, _ = name.rpartition(".")
        parent, _, child = path.rpartition(".")
        linear, bits = model.get_submodule(path), self._quantizer.bits.get(name)
        if bits is None or not isinstance(linear, nn.Linear) or weight.shape != linear.weight.shape:
            return False
        layer = Int4Linear.of_weight(weight, bits, linear.bias)
        if not self._passes(layer, weight):
            return False
        # transformers draws the weights of modules without this mark.
        layer.__dict__["_is_hf_initialized"] = True
        setattr(model.get_submodule(parent), child, layer)
        return True

    def _passes(self, layer: Int4Linear, weight: Tensor) -> bool:
        """Whether both ways to multiply give the products of the weights; the first layer of each form is tried.

        The layout of packed weights is the GPU's own: only a product shows that it is read as it was written.
        """
        passed = self._quantizer.passed
        if layer.bits not in passed:
            expected_weight = quantise(weight[:_COMPARED], layer.bits).dequantise(torch.float32)
            rows = torch.randn(MAX_PACKED_ROWS + 1, layer.in_features, generator=torch.Generator().manual_seed(0))
            rows = rows.to(weight.device, weight.dtype)
            expected = rows.float() @ expected_weight.T
            bias, layer.bias = layer.bias, None
            gaps = [layer(part)[:, :_COMPARED].float() - expected[: len(part)] for part in (rows[:3], rows)]
            layer.bias = bias
            gap = max(float(each.abs().max()) for each in gaps) / float(expected.abs().max().clamp(min=1e-6))
            passed[layer.bits] = gap <= TOLERANCE
            if not passed[layer.bits]:
                logger.error("%d-bit weights stay dense: their products differ by %.2g, relative", layer.bits, gap)
        return passed[layer.bits]
