"""Layouts of NVIDIA's ModelOpt by a few lines of torch: its own export runs on GPUs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.mxfp4 import FP4_VALUES

from tools.make_formats import base as dense_model

LIBRARIES = ()

_SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32}
_GROUP = 16
_LARGEST_8, _LARGEST_4 = 448.0, 6.0

# A weight -> what is stored, by what follows the layer's name, and the dense weight.
Quantise = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]


def _write(algorithm: str, quantise: Quantise, _: Path, target: Path) -> None:
    with TemporaryDirectory() as temporary:
        base = dense_model.save(Path(temporary), **_SMALL)
        state: dict[str, Tensor] = {}
        dense: dict[str, Tensor] = {}
        for name, weight in dense_model.weights(base).items():
            if not name.endswith("proj.weight"):
                state[name] = weight
                continue
            layer = name.removesuffix(".weight")
            tensors, dense[name] = quantise(weight.float())
            state |= {f"{layer}.{part}": tensor for part, tensor in tensors.items()}
            state[f"{layer}.input_scale"] = torch.tensor(0.02)
        for part in "kv":
            state[f"model.layers.0.self_attn.{part}_proj.{part}_scale"] = torch.tensor(1.0)
        form = {"quant_method": "modelopt", "quant_algo": algorithm, "kv_cache_scheme": "FP8", "ignore": ["lm_head"]}
        dense_model.write_checkpoint(base, target, state, {**form, "producer": {"name": "modelopt"}})
        dense_model.write_expected(base, target, dense)


def _fp8(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    scale = weight.abs().max() / _LARGEST_8
    codes = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale


def _nvfp4(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Groups of 16 with a scale in float8, and a scale of the tensor."""
    groups = weight.unflatten(1, (-1, _GROUP))
    whole = weight.abs().max() / (_LARGEST_8 * _LARGEST_4)
    scale = (groups.abs().amax(-1) / _LARGEST_4 / whole).to(torch.float8_e4m3fn)
    wide, values = (scale.float() * whole)[..., None], torch.tensor(FP4_VALUES)
    codes = (groups / wide)[..., None].sub(values).abs().argmin(-1)
    packed = (codes[..., ::2] | (codes[..., 1::2] << 4)).to(torch.uint8).flatten(1)
    return {"weight": packed, "weight_scale": scale, "weight_scale_2": whole}, (values[codes] * wide).flatten(1)


WRITERS = {"modelopt-fp8": partial(_write, "FP8", _fp8), "modelopt-nvfp4": partial(_write, "NVFP4", _nvfp4)}
