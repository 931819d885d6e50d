"""GPTQ by gptqmodel: its own search for scales and its own packing, rounding to nearest instead of by a calibration."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ["GPTQ_TORCH_TRITON_DEQUANT"] = "0"

import torch
from gptqmodel import QuantizeConfig
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.quantization.quantizer import Quantizer
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tools.make_formats.base import SMALL, weights, write_checkpoint
from tools.make_formats.expected import write_expected_of_files

LIBRARIES = ("gptqmodel",)


def _write(options: Mapping[str, Any], base: Path, target: Path) -> None:
    """`options` are gptqmodel's."""
    config = QuantizeConfig(offload_to_disk=False, **options)
    is_transposed = json.loads((base / "config.json").read_text("utf-8"))["model_type"] == "gpt2"
    state = weights(base)
    chosen = {name: weight for name, weight in state.items() if _is_quantised(name, weight, config)}
    dense = {}
    for name, weight in chosen.items():
        module = name.removesuffix(".weight")
        layer = _packed(module, _linear(weight, transposed=is_transposed), config)
        dense[name] = _dequantised(layer)
        if config.format == "gptq":
            convert_gptq_v2_to_v1_format_module(layer, config)
        del state[name]
        state |= {f"{module}.{part}": tensor for part, tensor in layer.state_dict().items() if part != "bias"}
    write_checkpoint(base, target, state, config.to_dict())
    stored = {name: weight.t() for name, weight in dense.items()} if is_transposed else {}
    write_expected_of_files(base, target, dense, stored=stored)


def _is_quantised(name: str, weight: Tensor, config: Any) -> bool:
    """As gptqmodel chooses: linear layers, no routers, the output layer on demand."""
    module = name.removesuffix(".weight")
    if weight.dim() < 2 or module.endswith(("embed_tokens", "wte", "wpe", "mlp.gate")):
        return False
    return config.dynamic_get(module) is not False and (module != "lm_head" or config.lm_head)


def _linear(weight: Tensor, *, transposed: bool) -> torch.nn.Module:
    """A layer with `weight` `[N, K]`, or if `transposed` `[K, N]` as in GPT-2."""
    rows = weight.float().t().contiguous() if transposed else weight.float()
    # Weights of one sign have a zero point at the end of its range.
    rows[::7].abs_()
    rows[3::7].abs_().neg_()
    if transposed:
        layer: torch.nn.Module = Conv1D(*rows.shape)
        layer.weight.data = rows.t()
        return layer
    linear = torch.nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    linear.weight.data = rows
    return linear


def _packed(name: str, linear: Any, config: Any) -> Any:
    """gptqmodel's layer of `linear`; with `desc_act`, groups are made along a random order of the inputs."""
    config = copy.copy(config)
    config.bits = config.dynamic_get(name, "bits", config.bits)
    rows = linear.weight.data.t() if isinstance(linear, Conv1D) else linear.weight.data
    num_outputs, num_inputs = rows.shape
    group = num_inputs if config.group_size == -1 else config.group_size
    order = torch.randperm(num_inputs, generator=torch.Generator().manual_seed(7))
    order = order if config.desc_act else torch.arange(num_inputs)
    index = torch.empty(num_inputs, dtype=torch.int32)
    index[order] = torch.arange(num_inputs, dtype=torch.int32) // group
    parts = rows[:, order].split(group, 1)
    scales, zeros = zip(*(_scale_and_zero(part, config) for part in parts), strict=True)
    options = {"bias": linear.bias is not None, "format": config.format}
    layer = TorchLinear(config.bits, group, config.sym, config.desc_act, num_inputs, num_outputs, **options)
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
    "gptq-conv1d": {"bits": 4, "group_size": 32, "sym": False},
    "gptq-experts": {"bits": 4, "group_size": 32, "sym": True},
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
# Qwen 2 has biases.
MODELS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(_FORMS.keys() - {"gptq"}, SMALL),
    "gptq-3-bits": {**SMALL, "family": "qwen2"},
    "gptq-conv1d": {"family": "gpt2", "hidden_size": 64, "n_inner": 128},
    "gptq-experts": {**SMALL, "family": "qwen3_moe", **_EXPERTS},
}
WRITERS = {name: partial(_write, options) for name, options in _FORMS.items()}
