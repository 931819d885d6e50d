"""AutoRound by auto-round: its own rounding to nearest and its own packing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from auto_round.data_type.int import quant_tensor_asym, quant_tensor_rtn_sym
from auto_round.export.export_to_autoround.export import pack_layer
from auto_round.export.export_to_awq.export import pack_layer as pack_awq
from awq.utils.packing_utils import dequantize_gemm
from torch import Tensor
from transformers import AutoModelForCausalLM

from tools.make_formats.base import SMALL, write_checkpoint, write_expected

LIBRARIES = ("auto-round", "autoawq")


@torch.no_grad()
def _write(packing: str, sym: bool, options: Mapping[str, Any], base: Path, target: Path) -> None:
    """`options` are auto-round's, of each layer."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    quantise = quant_tensor_rtn_sym if sym else quant_tensor_asym
    dense = {}
    for name, linear in [*model.model.named_modules(prefix="model")]:
        if isinstance(linear, torch.nn.Linear):
            _, scale, zeros = quantise(linear.weight.data.clone(), scale_dtype=torch.float16, **options)
            for key, value in {**options, "sym": sym, "act_bits": 16, "data_type": "int"}.items():
                setattr(linear, key, value)
            linear.scale = scale.reshape(linear.out_features, -1).float()
            linear.zp = zeros.reshape(linear.out_features, -1) if isinstance(zeros, torch.Tensor) else zeros
            (pack_awq if "awq" in packing else pack_layer)(name, model, packing)
            dense[f"{name}.weight"] = _dequantised(model.get_submodule(name))
    state = {
        name: each.bfloat16() if each.dtype is torch.float32 else each for name, each in model.state_dict().items()
    }
    form = {**options, "sym": sym, "data_type": "int", "quant_method": "auto-round", "packing_format": packing}
    write_checkpoint(base, target, state, form)
    write_expected(base, target, dense)


def _dequantised(layer: Any) -> Tensor:
    """By the layer's own product, or by autoawq's function, in float32. Packing may round ties another way."""
    if layer.qweight.shape[1] != layer.scales.shape[1]:
        return torch.t(dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.float(), 4, layer.group_size))
    half, layer.scales = layer.scales, layer.scales.float()
    weight: Tensor = layer(torch.eye(layer.infeatures)).t()
    layer.scales = half
    return weight


MODELS = dict.fromkeys(("auto_round-plain", "auto_round-awq"), SMALL)
WRITERS = {
    "auto_round-gptq": partial(_write, "auto_round:auto_gptq", True, {"bits": 4, "group_size": 128}),
    "auto_round-plain": partial(_write, "auto_round", False, {"bits": 3, "group_size": 32}),
    "auto_round-awq": partial(_write, "auto_round:auto_awq", False, {"bits": 4, "group_size": 64}),
}
