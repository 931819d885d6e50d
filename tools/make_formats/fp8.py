"""FP8: by transformers' own operation, and by a few lines of torch in the layouts of published checkpoints.

transformers' operation has no blocks that a matrix does not fill, which published checkpoints have (DeepSeek's
kv_a_proj has 576 rows), and its dequantisation refuses or misreads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

from tools.make_formats import base as dense_model
from tools.make_formats.expected import write_expected_of_files

LIBRARIES = ()

_BLOCK = 32
_LARGEST = 448.0
_SMALL = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32}
# No size is a multiple of the block.
_ODD = {"hidden_size": 80, "intermediate_size": 104, "head_dim": 40}
# All experts take every token, so that no rounding chooses others.
_EXPERTS = {**_SMALL, "num_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 48}

# Name and weight -> what is stored, by name, and the dense weight.
Quantise = Callable[[str, Tensor], tuple[dict[str, Tensor], Tensor]]


def _write(
    form: dict[str, Any],
    sizes: dict[str, Any],
    quantise: Quantise,
    _: Path,
    target: Path,
    *,
    whole_experts: bool = False,
) -> None:
    family = "qwen3_moe" if "num_experts" in sizes else dense_model.FAMILY
    with TemporaryDirectory() as temporary:
        base = dense_model.save(Path(temporary), family, **sizes)
        state: dict[str, Tensor] = {}
        dense: dict[str, Tensor] = {}
        for name, weight in dense_model.weights(base).items():
            if name.endswith("proj.weight"):
                tensors, dense[name] = quantise(name, weight)
                state |= tensors
            else:
                state[name] = weight
        stored = dict(dense)
        if whole_experts:
            for part in ("gate_up_proj", "down_proj"):
                _join_experts(state, dense, part)
        dense_model.write_checkpoint(base, target, state, form)
        write_expected_of_files(base, target, dense, stored=stored)


def _join_experts(state: dict[str, Tensor], dense: dict[str, Tensor], part: str) -> None:
    """Make one weight and one scale of a layer's experts, as transformers has them in memory."""
    experts, parts = "model.layers.0.mlp.experts", (["gate_proj", "up_proj"] if "gate" in part else [part])
    for tensors, suffix in ((state, ""), (state, "_scale_inv"), (dense, "")):
        names = [[f"{experts}.{i}.{each}.weight{suffix}" for each in parts] for i in range(_EXPERTS["num_experts"])]
        joined = [torch.cat([tensors.pop(name) for name in row]) for row in names]
        tensors[f"{experts}.{part}{suffix}"] = torch.stack(joined)


def _by_transformers(scale_fmt: str, name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    config = FineGrainedFP8Config(weight_block_size=(_BLOCK, _BLOCK), scale_fmt=scale_fmt)
    quantizer = SimpleNamespace(quantization_config=config)
    quantise: Any = Fp8Quantize(quantizer)
    found = quantise.convert({name: weight})
    return found, Fp8Dequantize(quantizer)._dequantize_one(found[name], found[f"{name}_scale_inv"], torch.float32)


def _in_blocks(rows: int, columns: int, suffix: str, name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A float32 scale for each block, the last ones cut; `suffix` follows the weight's name in the scale's."""
    count = math.ceil(weight.shape[0] / rows), math.ceil(weight.shape[1] / columns)
    padded = weight.float().new_zeros(count[0] * rows, count[1] * columns)
    padded[: weight.shape[0], : weight.shape[1]] = weight.float()
    scale = padded.view(count[0], rows, count[1], columns).abs().amax((1, 3)) / _LARGEST
    wide = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: weight.shape[0], : weight.shape[1]]
    codes = (weight.float() / wide).to(torch.float8_e4m3fn)
    return {name: codes, name + suffix: scale}, codes.float() * wide


def _by_tensor(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """As Mistral publishes theirs, with the scale of the inputs beside."""
    scale = (weight.float().abs().max() / _LARGEST).bfloat16()
    codes = (weight.float() / scale).to(torch.float8_e4m3fn)
    inputs = {name.replace("weight", "activation_scale"): torch.tensor(0.25, dtype=torch.bfloat16)}
    return {name: codes, f"{name}_scale_inv": scale, **inputs}, codes.float() * scale


def _by_row(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    return _in_blocks(1, weight.shape[1], "_scale", name, weight)


def _form(size: int | None = _BLOCK, **values: Any) -> dict[str, Any]:
    block = None if size is None else [size, size]
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block, **values}


WRITERS = {
    "fp8-blocks": partial(_write, _form(), _SMALL, partial(_by_transformers, "float")),
    "fp8-ue8m0": partial(_write, _form(scale_fmt="ue8m0"), _SMALL, partial(_by_transformers, "ue8m0")),
    "fp8-odd": partial(_write, _form(), _ODD, partial(_in_blocks, _BLOCK, _BLOCK, "_scale_inv")),
    "fp8-experts": partial(_write, _form(), _EXPERTS, partial(_in_blocks, _BLOCK, _BLOCK, "_scale_inv")),
    # Gate and up have a block of 48 rows each, so the scales are no blocks of the joined weight.
    "fp8-experts-whole": partial(
        _write, _form(48), _EXPERTS, partial(_in_blocks, 48, 48, "_scale_inv"), whole_experts=True
    ),
    "fp8-tensor": partial(_write, _form(None, activation_scheme="static"), _SMALL, _by_tensor),
    "fp8-fbgemm": partial(_write, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, _SMALL, _by_row),
}
