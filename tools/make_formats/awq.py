"""AWQ by autoawq: its own rounding to nearest and its own packing, without the search for scales."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from awq.models._config import AwqConfig
from awq.quantize.quantizer import AwqQuantizer
from awq.quantize.scale import apply_scale
from awq.utils.packing_utils import dequantize_gemm
from torch import Tensor
from transformers import AutoModelForCausalLM

from tools.make_formats.base import SMALL, write_checkpoint, write_expected

LIBRARIES = ("autoawq",)


def _write(version: str, group: int, kept: list[str], base: Path, target: Path) -> None:
    """`kept` are parts of names of modules that stay as they are."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16)
    scales = _scaled_activations(model)
    linears = {name: each for name, each in model.model.named_modules() if _is_quantised(name, each, kept)}
    dense = {f"model.{name}.weight": _dequantised(each, version, group) for name, each in linears.items()}
    dense |= {name: dense[name] / each for name, each in scales.items()}
    _quantiser(version, group)._apply_quant(model.model, linears)
    config = AwqConfig(q_group_size=group, version=version, modules_to_not_convert=kept or None)
    write_checkpoint(base, target, model.state_dict(), config.to_transformers_dict())
    write_expected(base, target, dense)


def _scaled_activations(model: Any) -> dict[str, Tensor]:
    """Scales between an activation without a gate and the next layer, whose weight is multiplied by them.

    By the name of that weight: what the inputs of the layer are divided by. Only families like StarCoder 2 have it.
    """
    found = {}
    for index, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "c_proj"):
            scales = torch.rand(layer.mlp.c_proj.in_features, generator=torch.Generator().manual_seed(5)).half() + 0.5
            apply_scale(layer.mlp, [("act", ["c_proj"], scales)])
            found[f"model.layers.{index}.mlp.c_proj.weight"] = scales.float()
    return found


def _is_quantised(name: str, module: torch.nn.Module, kept: list[str]) -> bool:
    return isinstance(module, torch.nn.Linear) and not any(part in name for part in kept)


def _quantiser(version: str, group: int) -> Any:
    """autoawq's, of which only the methods that round and pack are called; its constructor wants a calibration."""
    found = object.__new__(AwqQuantizer)
    found.w_bit, found.group_size, found.zero_point, found.version = 4, group, True, version
    return found


def _dequantised(linear: torch.nn.Linear, version: str, group: int) -> Tensor:
    """By autoawq's function for its gemm layers; products of the others run on CUDA only, and have the same codes."""
    gemm = _packed(linear, "gemm", group)
    scales, group = gemm.scales.float(), gemm.group_size
    if version != "gemv_fast":
        return torch.t(dequantize_gemm(gemm.qweight, gemm.qzeros, scales, 4, group))
    # It stores zero points as float16 products with the scales, which are added.
    added = _packed(linear, version, group).qzeros[: scales.shape[0]].float().repeat_interleave(group, 0)
    return torch.t(dequantize_gemm(gemm.qweight, torch.zeros_like(gemm.qzeros), scales, 4, group) + added)


def _packed(linear: torch.nn.Linear, version: str, group: int) -> Any:
    """The layer that autoawq makes of `linear`."""
    holder = torch.nn.Sequential(copy.deepcopy(linear))
    _quantiser(version, group)._apply_quant(holder, {"0": holder[0]})
    return holder[0]


MODELS = {
    **dict.fromkeys(("awq-gemm-g32", "awq-gemv", "awq-gemv-fast"), SMALL),
    "awq-activation": {"family": "starcoder2", **SMALL, "hidden_act": "gelu"},
}
WRITERS = {
    "awq-gemm": partial(_write, "gemm", 128, []),
    "awq-gemm-g32": partial(_write, "gemm", 32, ["o_proj"]),
    "awq-gemv": partial(_write, "gemv", 64, []),
    "awq-gemv-fast": partial(_write, "gemv_fast", 64, []),
    "awq-activation": partial(_write, "gemm", 64, []),
}
