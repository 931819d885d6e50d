"""compressed-tensors: llm-compressor's rounding to nearest and its files; with an older library, older files.

Only compressed-tensors before 0.19 writes `g_idx`, and only before 0.18 words that hold whole codes of 3 bits. That
fixture is made where such a version comes first on PYTHONPATH: an unpacked wheel of 0.17.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.mx_utils import decompress_mx_scale
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tools.make_formats import base as dense_model
from tools.make_formats.base import write_checkpoint, write_expected

_IS_OLD = tuple(map(int, version("compressed-tensors").split(".")[:2])) < (0, 19)
LIBRARIES: tuple[str, ...] = ("compressed-tensors",) if _IS_OLD else ("compressed-tensors", "llmcompressor")

_HEAD = ("lm_head",)


def _int(num_bits: int, group_size: int | None = None, **values: Any) -> dict[str, Any]:
    strategy = "group" if group_size else "channel"
    return {"num_bits": num_bits, "type": "int", "strategy": strategy, "group_size": group_size, **values}


def _group(weights: Mapping[str, Any], targets: Sequence[str] = ("Linear",), **values: Any) -> dict[str, Any]:
    return {"targets": list(targets), "weights": dict(weights), **values}


def _write(
    scheme: str | Sequence[Mapping[str, Any]], base: Path, target: Path, ignore: Sequence[str] = _HEAD, **changes: Any
) -> None:
    """By llm-compressor, without data. `scheme` is the name of one, or config groups; `changes` are the model's."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    with TemporaryDirectory() as temporary:
        base = dense_model.save(Path(temporary), **changes) if changes else base
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        if isinstance(scheme, str):
            modifier = QuantizationModifier(targets="Linear", scheme=scheme, ignore=list(ignore))
        else:
            groups = {f"group_{i}": QuantizationScheme.model_validate(each) for i, each in enumerate(scheme)}
            modifier = QuantizationModifier(config_groups=groups, ignore=list(ignore))
        oneshot(model=model, recipe=[modifier], pipeline="datafree")
        schemes = {name: each.quantization_scheme for name, each in _quantised(model)}
        model.save_pretrained(target, save_compressed=True)
        (target / "generation_config.json").unlink()
        write_expected(base, target, _dequantised(load_file(target / "model.safetensors"), schemes))


def _quantised(model: Any) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if getattr(module, "quantization_scheme", None) is not None:
            yield name, module


def _dequantised(stored: Mapping[str, Tensor], schemes: Mapping[str, QuantizationScheme]) -> dict[str, Tensor]:
    """The weights of the modules in `schemes`, as the library computes them of scales in float32."""
    found = {}
    for name, scheme in schemes.items():
        parts = {key.removeprefix(f"{name}."): each for key, each in stored.items() if key.startswith(f"{name}.")}
        form = str(getattr(scheme.format, "value", scheme.format))
        if "fp4" in form:
            found[f"{name}.weight"] = _of_fp4(parts, scheme.weights)
            continue
        if parts["weight_scale"].dtype in (torch.bfloat16, torch.float16):
            parts["weight_scale"] = parts["weight_scale"].float()
        found[f"{name}.weight"] = BaseCompressor.get_value_from_registry(form).decompress(parts, scheme)["weight"]
    return found


def _of_fp4(parts: Mapping[str, Tensor], args: QuantizationArgs) -> Tensor:
    """The steps of the library's `decompress`, which rounds to bfloat16 after each."""
    packed, scale = parts["weight_packed"], parts["weight_scale"]
    scale = decompress_mx_scale(scale).float() if scale.dtype == torch.uint8 else scale.float()
    values = unpack_fp4_from_uint8(packed, packed.shape[0], packed.shape[1] * 2, dtype=torch.float32)
    dense: Tensor = dequantize(values, scale, args=args, global_scale=parts.get("weight_global_scale"))
    return dense


def _write_old(base: Path, target: Path) -> None:
    """Attention in 4 bits with zero points and the groups of inputs that activations ordered, the rest in 3 bits."""
    ordered = QuantizationScheme.model_validate(
        _group(_int(4, 32, symmetric=False, actorder="group"), ["re:.*self_attn.*"], format="pack-quantized")
    )
    rest = QuantizationScheme.model_validate(_group(_int(3), format="pack-quantized"))
    state = dense_model.weights(base)
    schemes = {
        name.removesuffix(".weight"): ordered if "self_attn" in name else rest for name in state if "proj" in name
    }
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    for name, scheme in schemes.items():
        parts = _rounded(state.pop(f"{name}.weight"), scheme.weights)
        state |= {f"{name}.{part}": each for part, each in compressor.compress(parts, scheme).items()}
    groups = {"group_0": ordered, "group_1": rest}
    config = QuantizationConfig(
        config_groups=groups, format="pack-quantized", ignore=list(_HEAD), quantization_status="compressed"
    )
    write_checkpoint(base, target, state, config.model_dump() | {"version": version("compressed-tensors")})
    write_expected(base, target, _dequantised(load_file(target / "model.safetensors"), schemes))


def _rounded(weight: Tensor, args: QuantizationArgs) -> dict[str, Tensor]:
    """What the library's `compress` takes: a weight with scales, zero points and groups in a random order."""
    group = args.group_size or weight.shape[1]
    order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(5))
    grouped = weight[:, order].unflatten(1, (-1, group))
    scale, zero_point = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    parts = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero_point}
    if args.group_size:
        groups = torch.empty(weight.shape[1], dtype=torch.int32)
        groups[order] = torch.arange(weight.shape[1], dtype=torch.int32) // group
        parts["weight_g_idx"] = groups
    return parts


# Each group is found in another way.
_MIXED = [
    _group(_int(8), ["Embedding"]),
    _group(_int(3, 32), [r"re:.*mlp\.(gate|down)_proj$"]),
    _group({"num_bits": 8, "type": "float", "strategy": "tensor"}),
]
_SMALL: dict[str, Any] = {"ignore": (), "intermediate_size": 64}
_NEW = {
    "w4a16": partial(_write, [_group(_int(4, 32))]),
    "w4a16-asym": partial(_write, [_group(_int(4, 32, symmetric=False))], ignore=()),
    "w8a16": partial(_write, [_group(_int(8))], **_SMALL),
    "w8a8": partial(_write, "W8A8", **_SMALL),
    "fp8": partial(_write, "FP8_DYNAMIC", **_SMALL),
    # Blocks that neither rows nor inputs fill.
    "fp8-block": partial(_write, "FP8_BLOCK", ignore=(), intermediate_size=160, head_dim=32),
    "nvfp4": partial(_write, "NVFP4A16", ignore=()),
    "mxfp4": partial(_write, "MXFP4A16", ignore=()),
    "mixed": partial(_write, _MIXED, ignore=(r"re:.*mlp\.up.*", "lm_head"), intermediate_size=64),
}
WRITERS = {f"compressed_tensors-{name}": write for name, write in ({"old": _write_old} if _IS_OLD else _NEW).items()}
