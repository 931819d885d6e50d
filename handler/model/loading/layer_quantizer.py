"""Puts layers over quantised weights into a model while transformers loads it, one weight after the other.

A weight is quantised in the checkpoint, or is quantised here because HF_MODEL_QUANTIZE asks for it. transformers calls
the quantiser for each weight, on its device, before it reads the next: beside what is loaded, one dense weight is in
memory at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from handler.linears.cuda.int4_linear import fits_int4, int4_bytes
from handler.linears.experts.quantised_experts import is_experts
from handler.linears.linear import is_plain
from handler.linears.packed_file import PackedFile
from handler.linears.packed_linear import fits
from handler.linears.product_check import ProductCheck
from handler.linears.quantised_linear import linear_of_dense, quantised_linear
from handler.linears.quantised_weight import Form
from handler.linears.weight_blocks import BLOCK, quantise
from handler.model.loading.carried_weight import CarriedWeight, DenseWeight
from handler.model.loading.expert_placement import ExpertPlacement, expert_matrices
from handler.model.loading.layer_report import LayerReport
from handler.model.loading.layer_source import LayerSource
from handler.model.machine_memory import trim_heap

logger = logging.getLogger(__name__)

# The output layer decides between near ties; it keeps eight bits where the others have four.
OUTPUT_BITS = 8
_NAME = "tgi-heir-layers"
# Weights after which freed memory goes back to the system: a trim takes milliseconds.
_TRIMMED = 1 << 25


@register_quantization_config(_NAME)
class LayersConfig(QuantizationConfigMixin):
    """What `from_pretrained` is given: dense linear layers become `bits` wide, stored forms stay what they are."""

    def __init__(
        self,
        bits: int | None,
        stored: str | None,
        dtype: torch.dtype,
        *,
        keep_dense: bool = False,
        packed: PackedFile | None = None,
        stored_bytes: float | None = None,
    ) -> None:
        """`bits` is 4, 8 or None; `stored` the form of the checkpoint or None; `dtype` that of activations.

        With `keep_dense` a layer on CPU keeps what it stands for beside the packed weight. Layers over stored weights
        come from `packed` and go there. `stored_bytes` are what a stored weight takes on the device, None for those of
        `dtype`: transformers divides a model among GPUs by them.
        """
        self.quant_method: Any = _NAME
        self.bits, self.stored, self.dtype, self.keep_dense = bits, stored, dtype, keep_dense
        self.packed = packed
        self.stored_bytes = stored_bytes


@register_quantizer(_NAME)
class _LayerQuantizer(HfQuantizer):
    """Decides which weights are quantised when the model is on the meta device; `_Place` puts layers in place."""

    def __init__(self, quantization_config: Any, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self.config: LayersConfig = quantization_config
        self.report = LayerReport(self.config.stored)
        self.check = ProductCheck()
        self.experts = ExpertPlacement(self.check, self.report, self.config.dtype)
        # Names of weights that are quantised here, with their bits; a tied output layer apart, which no file names.
        self.bits: dict[str, int] = {}
        self._packs_tied_output = False
        self._seen: set[str] = set()
        # Those of stored weights that are expected to be held as stored.
        self._small: set[str] = set()
        self._tied: set[str] = set()
        self._output: str | None = None
        self._input: nn.Module | None = None
        self._untrimmed = 0
        # Layers whose bias has not been read yet, and a tied output layer.
        self._waiting: list[LayerSource] = []
        # The model's linear layers, in its own order.
        self._order: list[tuple[str, tuple[int, int]]] = []

    def _process_model_before_weight_loading(self, model: Any, **options: Any) -> None:
        self._tied = set(model.all_tied_weights_keys or {})
        self._order = list(_linears(model))
        output, self._input = model.get_output_embeddings(), model.get_input_embeddings()
        self._output = next((f"{name}.weight" for name, each in model.named_modules() if each is output), None)
        if self.config.stored is not None:
            self._seen = {name for name, weight in model.named_parameters() if weight.dim() > 1}
            matrices = {name for name, _ in (*_linears(model), *expert_matrices(model))}
            self._small = matrices - self._tied - {self._output}
        if self.config.bits is not None:
            self._choose(model, self.config.bits, options.get("device_map"))

    def _choose(self, model: Any, bits: int, device_map: Any) -> None:
        """Note the layers to quantise here. The input embedding keeps a tied weight in memory anyway."""
        on_cpu = device_map is None
        fitting = fits if on_cpu else fits_int4
        in_float32 = tuple(model._keep_in_fp32_modules or ())
        left = []
        for weight, shape in (*_linears(model), *expert_matrices(model)):
            name = weight.removesuffix(".weight")
            if any(part in name for part in in_float32):
                continue
            if not fitting(*shape):
                left.append(f"{name} ({shape[0]} x {shape[1]})")
            elif weight not in self._tied:
                self.bits[weight] = OUTPUT_BITS if weight == self._output else bits
            elif on_cpu and weight == self._output:
                self._packs_tied_output = True
        if left:
            logger.warning(
                "%d linear layers stay unquantised, their shape is no multiple of %d x 32: %s",
                *(len(left), 16 if on_cpu else 8, ", ".join(left)),
            )

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        return param_name in self.bits or param_name in self._seen

    def param_element_size(self, model: Any, param_name: str, param: Tensor) -> float:
        if param_name in self._small and self.config.stored_bytes is not None:
            return self.config.stored_bytes
        bits = self.bits.get(param_name)
        return param.element_size() if bits is None else int4_bytes(bits)

    def get_quantize_ops(self) -> ConversionOps:
        return _Place(self)

    def placed(self, model: nn.Module, name: str, value: Tensor | CarriedWeight) -> Tensor | None:
        """None if a layer over `value` has taken its place, else the dense weight to set."""
        module: Any = model.get_submodule(name.rpartition(".")[0])
        if isinstance(value, DenseWeight):
            dense = _as_held(module, value.to(dtype=self.config.dtype).dense())
            self.report.dequantised(name, value.stored_bytes, dense.nbytes)
            return self._left(name, dense)
        if is_experts(module):
            return self._placed_experts(module, name, value)
        takes = is_plain(module) and value.shape == module.weight.shape
        if isinstance(value, CarriedWeight):
            source = self._stored(name, value.to(dtype=self.config.dtype))
            if takes and self._place(model, source):
                return None
            return self._dense(module, source)
        if takes and name in self.bits and self._place(model, self._rounded(name, value, self.bits[name])):
            return None
        return self._left(name, value)

    def _left(self, name: str, value: Tensor) -> Tensor:
        # What is reported as of another shape must not count as quantised.
        self.bits.pop(name, None)
        self._seen.discard(name)
        return value

    def _placed_experts(self, experts: Any, name: str, value: Tensor | CarriedWeight) -> Tensor | None:
        """As `placed`, for a matrix of each expert."""
        if isinstance(value, CarriedWeight):
            weight, dtype = value.weight, self.config.dtype
            parts = (self._stored(name, CarriedWeight(weight.expert(i), dtype)) for i in range(weight.shape[0]))
            whole = self._stored(name, CarriedWeight(weight, dtype))
            return None if self.experts.place(experts, name, parts) else self._dense(experts, whole)
        bits = self.bits.get(name, 0)
        matrices = (each.T.contiguous() if experts.is_transposed else each for each in value)
        parts = (self._rounded(name, each, bits, keeps=False) for each in matrices)
        return None if bits and self.experts.place(experts, name, parts) else self._left(name, value)

    def _stored(self, name: str, value: CarriedWeight) -> LayerSource:
        make = partial(self._linear_of, value)
        return LayerSource(name, value.form, value.rows, make, value.dense, value.stored_bytes)

    def _linear_of(self, value: CarriedWeight, bias: Tensor | None) -> nn.Module | None:
        dtype = self.config.dtype
        if dtype is torch.float32:  # a stored weight is exact only as a dense one
            return None
        return quantised_linear(value.weight, bias, dtype, value.dense() if self.config.keep_dense else None)

    def _rounded(self, name: str, weight: Tensor, bits: int, *, keeps: bool = True) -> LayerSource:
        keep = keeps and self.config.keep_dense and (weight if name in self._tied else True)
        return LayerSource(
            name,
            Form(bits, BLOCK, has_minimum=True),
            lambda rows: quantise(weight[rows], bits),
            lambda bias: linear_of_dense(weight, bits, bias, keep),
            lambda: weight,
        )

    def _dense(self, module: nn.Module, source: LayerSource) -> Tensor:
        """The weight of `source` as `module` holds it."""
        dense = source.dense()
        self._seen.discard(source.name)
        if module is self._input and self._output in self._tied:
            self._waiting.append(replace(source, name=str(self._output)))
        else:
            self.report.dequantised(source.name, source.num_bytes, dense.nbytes)
        return _as_held(module, dense)

    def _place(self, model: nn.Module, source: LayerSource) -> bool:
        """Put a layer in the place of the one that has the weight of `source`; False if no kernel takes it."""
        linear: Any = model.get_submodule(source.name.rpartition(".")[0])
        if linear.bias is not None and linear.bias.is_meta:
            self._waiting.append(source)
            linear.weight._is_hf_initialized = True
            return True
        bias = None if linear.bias is None else linear.bias.detach()
        layer = self._kept(source, bias) or source.linear(bias)
        if layer is None or not self.check.passes(layer, source.form, source.rows, self.config.dtype):
            return False
        _put(model, source.name, layer)
        self.report.placed(source.form.bits)
        self._trim(linear.weight.numel())
        if self.config.packed is not None:
            self.config.packed.keep(source.name, layer)
        return True

    def _trim(self, num_weights: int) -> None:
        self._untrimmed += num_weights
        if self._untrimmed > _TRIMMED:
            trim_heap()
            self._untrimmed = 0

    def _kept(self, source: LayerSource, bias: Tensor | None) -> nn.Module | None:
        """The layer as an earlier start has packed it."""
        if self.config.packed is None or source.name not in self.config.packed:
            return None
        return self.config.packed.layer(source.name, bias, source.dense() if self.config.keep_dense else None)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        if self._packs_tied_output and self._output is not None:
            weight = model.get_output_embeddings().weight.detach()
            self._waiting.append(self._rounded(self._output, weight, OUTPUT_BITS))
        for source in self._waiting:
            if not self._place(model, source) and source.name not in self._tied:
                linear = model.get_submodule(source.name.rpartition(".")[0])
                linear.weight = nn.Parameter(self._dense(linear, source), requires_grad=False)
        self._waiting.clear()
        self.experts.finish(model)
        self.report.log()
        if self.config.packed is not None:
            for name, layer in self.config.packed.save([name for name, _ in self._order]).items():
                _put(model, name, layer)
        # To transformers the model is an ordinary one from here on.
        self.remove_quantization_config(model)  # type: ignore[no-untyped-call]
        return model

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


class _Place(ConversionOps):
    """Hands each weight to the quantiser; one that a layer has taken does not remain to be set."""

    def __init__(self, quantizer: _LayerQuantizer) -> None:
        self._quantizer = quantizer

    def convert(self, input_dict: dict[str, Any], *_: Any, **given: Any) -> dict[str, Any]:
        model, missing_keys = given["model"], given.get("missing_keys")
        remaining: dict[str, Any] = {}
        for name, value in input_dict.items():
            weight = self._quantizer.placed(model, name, value[0] if isinstance(value, list) else value)
            if weight is not None:
                remaining[name] = weight
            elif missing_keys is not None:
                missing_keys.discard(name)
        return remaining


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the one with the weight `name`."""
    # transformers draws the weights of modules without this mark.
    layer.__dict__["_is_hf_initialized"] = True
    parent, _, child = name.rpartition(".")[0].rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _linears(model: nn.Module) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names of the weights of linear layers, with outputs and inputs."""
    for name, module in model.named_modules():
        if is_plain(module):
            assert isinstance(module, nn.Linear)
            yield f"{name}.weight", (module.out_features, module.in_features)


def _as_held(module: nn.Module, weight: Tensor) -> Tensor:
    """`weight` `[..., N, K]` as `module` has it."""
    if isinstance(module, Conv1D) or getattr(module, "is_transposed", False):
        return weight.transpose(-1, -2).contiguous()
    return weight
