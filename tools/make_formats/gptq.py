"""GPTQ by gptqmodel: its own search for scales and its own packing, rounding to nearest instead of by a calibration."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["GPTQ_TORCH_TRITON_DEQUANT"] = "0"

import torch
from gptqmodel import QuantizeConfig
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.quantization.quantizer import Quantizer
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
from torch import Tensor
from transformers import AutoModelForCausalLM

from tools.make_formats.base import save, write_checkpoint, write_expected

LIBRARIES = ("gptqmodel",)


def _write_small(options: Mapping[str, Any], base: Path, target: Path) -> None:
    """As `_write`, of a smaller model: more bits take more room."""
    with TemporaryDirectory() as temporary:
        _write(options, save(Path(temporary), intermediate_size=64), target)


def _write(options: Mapping[str, Any], base: Path, target: Path) -> None:
    """`options` are gptqmodel's."""
    config = QuantizeConfig(offload_to_disk=False, **options)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    dense = {}
    for name, linear in [*model.named_modules()]:
        override = config.dynamic_get(name)
        if isinstance(linear, torch.nn.Linear) and override is not False and (name != "lm_head" or config.lm_head):
            # Weights of one sign have a zero point at the end of its range.
            linear.weight.data[::7].abs_()
            linear.weight.data[3::7].abs_().neg_()
            layer = _packed(name, linear, config)
            dense[f"{name}.weight"] = _dequantised(layer)
            if config.format == "gptq":
                convert_gptq_v2_to_v1_format_module(layer, config)
            model.set_submodule(name, layer)
    state = {name: _as_stored(tensor) for name, tensor in model.state_dict().items()}
    write_checkpoint(base, target, state, config.to_dict())
    write_expected(base, target, dense)


def _packed(name: str, linear: torch.nn.Linear, config: Any) -> Any:
    """gptqmodel's layer of `linear`; with `desc_act`, groups are made along a random order of the inputs."""
    config = copy.copy(config)
    config.bits = config.dynamic_get(name, "bits", config.bits)
    num_outputs, num_inputs = linear.weight.shape
    group = num_inputs if config.group_size == -1 else config.group_size
    order = torch.randperm(num_inputs, generator=torch.Generator().manual_seed(7))
    order = order if config.desc_act else torch.arange(num_inputs)
    index = torch.empty(num_inputs, dtype=torch.int32)
    index[order] = torch.arange(num_inputs, dtype=torch.int32) // group
    parts = linear.weight.data[:, order].split(group, 1)
    scales, zeros = zip(*(_scale_and_zero(part, config) for part in parts), strict=True)
    layer = TorchLinear(config.bits, group, config.sym, config.desc_act, num_inputs, num_outputs, format=config.format)
    # Scales are stored in float16.
    layer.pack_original(linear, torch.cat(scales, 1).half().float(), torch.cat(zeros, 1), index)
    return layer


def _scale_and_zero(weights: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Of one group: `[N, 1]` each."""
    quantiser = Quantizer(config)
    quantiser.configure(perchannel=True)
    quantiser.find_params(weights, weight=True)
    return quantiser.scale, quantiser.zero


def _dequantised(layer: Any) -> Tensor:
    half, layer.scales = layer.scales, layer.scales.float()
    weight: Tensor = layer.eval().dequantize_weight().t().contiguous()
    layer.scales = half
    return weight


def _as_stored(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.dtype is torch.float32 else tensor


_FORMS: Mapping[str, Mapping[str, Any]] = {
    "gptq": {
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "lm_head": True,
        "dynamic": {r"-:.*k_proj": {}, r".*up_proj": {"bits": 8}},
    },
    "gptq-v2-act-order": {"bits": 4, "group_size": 32, "sym": False, "desc_act": True, "format": "gptq_v2"},
    "gptq-8-bits": {"bits": 8, "group_size": -1, "sym": True},
    "gptq-3-bits": {"bits": 3, "group_size": 32, "sym": False},
    "gptq-2-bits": {"bits": 2, "group_size": 32, "sym": False},
    "gptq-planes": {"bits": 6, "group_size": 64, "sym": False, "format": "gptq_p"},
}
WRITERS = {name: partial(_write if options["bits"] < 5 else _write_small, options) for name, options in _FORMS.items()}
