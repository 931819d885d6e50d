"""torchao through transformers, as a user saves a model; int4 by torchao's class, whose own rounding needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int4Tensor,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerGroup,
    dequantize_affine,
)
from transformers import TorchAoConfig

from tools.make_formats import base as dense_model

LIBRARIES = ("torchao",)

_SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
_GROUP = 32
_INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009 (torch's stubs do not have it)


def _write(config: Callable[[], Any], _: Path, target: Path) -> None:
    dense_model.write_by_transformers(TorchAoConfig(config()), _SMALL, target, _dequantised)


def _dequantised(weight: Any) -> Tensor:
    """In float32; the class of int4 in int8 would round to its own dtype."""
    if type(weight).__name__ == "IntxUnpackedToInt8Tensor":
        parts = weight.block_size, weight.scale.float(), weight.zero_point, torch.int8
        found: Tensor = dequantize_affine(weight.qdata, *parts, output_dtype=torch.float32)
    else:
        found = weight.dequantize(torch.float32)
    return found


def _write_int4(_: Path, target: Path) -> None:
    with TemporaryDirectory() as temporary:
        base = dense_model.save(Path(temporary), **_SMALL)
        state: dict[str, Tensor] = dense_model.weights(base)
        dense = {}
        for name in [name for name in state if name.endswith("proj.weight")]:
            state[name], dense[name] = _int4(state[name])
        tensors, metadata = flatten_tensor_state_dict(state)
        config = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {}}}}
        dense_model.write_checkpoint(base, target, tensors, config)
        save_file(tensors, target / "model.safetensors", metadata={**metadata, "format": "pt"})
        dense_model.write_expected(base, target, dense)


def _int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The layout of Int4Tensor: signed codes, the first of two in the low four bits, `q * scale + zero_point`."""
    groups = weight.float().unflatten(1, (-1, _GROUP))
    least, most = groups.aminmax(dim=-1)
    scale = ((most - least) / 15).bfloat16()
    point = (least + 8 * scale.float()).bfloat16()
    codes = ((groups - point.float()[..., None]) / scale.float()[..., None]).round().clamp(-8, 7).to(torch.int8)
    dense = (codes.float() * scale.float()[..., None] + point.float()[..., None]).flatten(1)
    flat = codes.flatten(1)
    packed = (flat[:, ::2] & 15) | (flat[:, 1::2] << 4)
    parts = {"block_size": [1, _GROUP], "shape": weight.shape, "activation_dtype": torch.bfloat16}
    return Int4Tensor(packed, scale.T.contiguous(), point.T.contiguous(), **parts), dense


WRITERS = {
    "torchao-int8": partial(_write, Int8WeightOnlyConfig),
    "torchao-float8": partial(_write, Float8WeightOnlyConfig),
    "torchao-intx": partial(_write, partial(IntxWeightOnlyConfig, weight_dtype=_INT4, granularity=PerGroup(_GROUP))),
    "torchao-int4": _write_int4,
}
