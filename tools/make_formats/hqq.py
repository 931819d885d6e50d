"""HQQ by hqq's own layers, stored tensor by tensor as transformers 4 saved them; transformers 5.23 does not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear, Quantizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from tools.make_formats.base import SMALL, write_checkpoint, write_expected

LIBRARIES = ("hqq",)


def _write(options: Mapping[str, Any], base: Path, target: Path) -> None:
    """`options` are hqq's."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16)
    config = BaseQuantizeConfig(**options)
    dense = {}
    for name, linear in [*model.model.named_modules(prefix="model")]:
        if isinstance(linear, torch.nn.Linear):
            layer = HQQLinear(linear, config, compute_dtype=torch.float16, device="cpu", initialize=True)
            layer.encoded_state_dict = True
            model.set_submodule(name, layer)
            dense[f"{name}.weight"] = _dequantised(layer)
    form = {"quant_config": config, "quant_method": "hqq", "skip_modules": ["lm_head"]}
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor is not None}
    write_checkpoint(base, target, state, form)
    write_expected(base, target, dense)


def _dequantised(layer: Any) -> Tensor:
    """In float32; hqq computes it in the dtype of its scales."""
    floats = {name: layer.meta[name].float() for name in ("scale", "zero")}
    weight: Tensor = Quantizer.dequantize(layer.W_q, {**layer.meta, **floats, "compute_dtype": torch.float32})
    return weight


_FORMS: Mapping[str, Mapping[str, Any]] = {
    "hqq-4-bits": {"nbits": 4, "group_size": 64, "axis": 1},
    "hqq-8-bits": {"nbits": 8, "group_size": 64, "axis": 1},
    "hqq-3-bits-axis-0": {"nbits": 3, "group_size": 64, "axis": 0},
}
MODELS = dict.fromkeys(_FORMS, SMALL)
WRITERS = {name: partial(_write, options) for name, options in _FORMS.items()}
