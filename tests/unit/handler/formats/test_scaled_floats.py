"""Weights in floats of 8 and 4 bits: every way in which scales are stored gives the exact weights, or one sentence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from handler.formats.fp8 import is_skipped
from handler.formats.stored_format import StoredFormat, reader_of
from handler.formats.tensor_files import open_tensors
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

E4M3, E5M2, E8M0 = torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu
NAME = "model.layers.0.mlp.up_proj.weight"
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def opened(directory: Path, tensors: Mapping[str, Tensor], look: Callable[[StoredFormat], Any], **values: Any) -> Any:
    """What `look` finds in the reader of a checkpoint with these tensors and this quantization_config."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    with open_tensors(directory) as files:
        found = reader_of(values.pop("quant_method", "fp8"), values, files)
        assert found is not None
        return look(found)


def dense(found: QuantisedWeight | Tensor) -> Tensor:
    return found.dequantise(torch.float32) if isinstance(found, QuantisedWeight) else found


def floats(*shape: int, dtype: torch.dtype = E4M3) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).mul(20).to(dtype)


def scales(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))) / 64 + 2**-10


def blocks(scale: Tensor, rows: int, columns: int, block: int = 128) -> Tensor:
    """The scale of each weight."""
    whole = scale.repeat_interleave(block, -2).repeat_interleave(block, -1)
    return whole[..., :rows, :columns]


# Shape of the weight, scale, what each weight is multiplied by, and the group wanted (None: dense).
GRIDS: dict[str, tuple[tuple[int, ...], Tensor, Callable[[Tensor], Tensor], int | None]] = {
    "blocks": ((256, 384), scales(2, 3), lambda s: blocks(s, 256, 384), 128),
    "blocks cut in both directions": ((160, 192), scales(2, 2), lambda s: blocks(s, 160, 192), 64),
    "rows of no multiple (DeepSeek's kv_a_proj)": ((576, 128), scales(5, 1), lambda s: blocks(s, 576, 128), 128),
    "smaller than a block": ((48, 96), scales(1, 1), lambda s: s.expand(48, 96), 96),
    "columns that leave groups of 8": ((128, 136), scales(1, 2), lambda s: blocks(s, 128, 136), None),
    "one scale": ((64, 96), scales(), lambda s: s.expand(64, 96), 96),
    "one scale in a list": ((64, 96), scales(1), lambda s: s.expand(64, 96), 96),
    "one a row": ((64, 96), scales(64, 1), lambda s: s.expand(64, 96), 96),
    "one a row, without columns": ((64, 96), scales(64), lambda s: s[:, None].expand(64, 96), 96),
    "groups of 32, as MXFP8": ((64, 96), scales(64, 3), lambda s: s.repeat_interleave(32, 1), 32),
    "experts": ((3, 256, 128), scales(3, 2, 1), lambda s: blocks(s, 256, 128), 128),
    "experts, one scale each": ((3, 64, 96), scales(3), lambda s: s[:, None, None].expand(3, 64, 96), 96),
    "gate and up of 32 rows": (
        (2, 64, 128),
        scales(2, 2, 1),
        lambda s: s.repeat_interleave(32, 1).expand(2, 64, 128),
        128,
    ),
    "gate and up of 192 rows": (
        (2, 384, 128),
        scales(2, 4, 1),
        lambda s: torch.cat([blocks(s[:, :2], 192, 128), blocks(s[:, 2:], 192, 128)], 1),
        128,
    ),
}


@pytest.mark.parametrize("case", GRIDS)
def test_scales_belong_to_their_weights(case: str, tmp_path: Path) -> None:
    shape, scale, spread, group = GRIDS[case]
    name = NAME if len(shape) == 2 else "model.layers.0.mlp.experts.gate_up_proj"
    weight = floats(*shape)
    found = opened(tmp_path, {name: weight, f"{name}_scale_inv": scale}, lambda reader: reader.read(name))
    assert (found.group if isinstance(found, QuantisedWeight) else None) == group
    assert torch.equal(dense(found), weight.float() * spread(scale))


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("suffix", ["weight_scale_inv", "weight_scale", "scale", "qscale_weight"])
def test_every_name_and_type_of_a_weight_and_its_scale(suffix: str, dtype: torch.dtype, tmp_path: Path) -> None:
    weight, scale = floats(128, 128, dtype=dtype), scales(1, 1)
    tensors = {NAME: weight, NAME.removesuffix("weight") + suffix: scale, "model.norm.weight": torch.ones(128)}
    sources, found = opened(tmp_path, tensors, lambda reader: (reader.sources(), reader.read(NAME)))
    assert list(sources) == [NAME]
    assert set(sources[NAME]) == set(tensors) - {"model.norm.weight"}
    assert torch.equal(dense(found), weight.float() * scale)


@pytest.mark.parametrize("stored", [lambda e: e, lambda e: e.view(E8M0)], ids=["bytes", "float8_e8m0fnu"])
def test_a_byte_of_a_scale_is_an_exponent(stored: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    exponents = torch.tensor([[120, 127], [129, 0]], dtype=torch.uint8)
    weight = floats(256, 256)
    tensors = {NAME: weight, f"{NAME}_scale_inv": stored(exponents)}
    found = opened(tmp_path, tensors, lambda reader: reader.read(NAME), scale_fmt="ue8m0")
    exact = torch.exp2(exponents.double() - 127).float()
    assert torch.equal(dense(found), weight.float() * blocks(exact, 256, 256))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float4_e2m1fn_x2], ids=str)
def test_weights_of_4_bits_in_a_checkpoint_of_8(dtype: torch.dtype, tmp_path: Path) -> None:
    packed = torch.randint(-128, 128, (2, 64, 32), dtype=torch.int8).view(dtype)
    name, scale = "model.layers.0.mlp.experts.down_proj", scales(2, 64, 2)
    found = opened(tmp_path, {name: packed, f"{name}_scale_inv": scale}, lambda reader: reader.read(name))
    low, high = packed.view(torch.uint8).long() & 15, packed.view(torch.uint8).long() >> 4
    exact = E2M1[torch.stack([low, high], -1).flatten(-2)] * scale.repeat_interleave(32, -1)
    assert found.bits == 4
    assert torch.equal(dense(found), exact)


def test_nvfp4_has_two_scales_and_may_scale_its_inputs(tmp_path: Path) -> None:
    packed = torch.randint(0, 256, (32, 32), dtype=torch.uint8)
    scale, whole, inputs = scales(32, 4) * 1000, torch.tensor(0.01), scales(64)
    module = NAME.removesuffix(".weight")
    tensors = {NAME: packed, f"{module}.weight_scale": scale.to(E4M3), f"{module}.weight_scale_2": whole}
    exact = E2M1[torch.stack([packed & 15, packed >> 4], -1).flatten(-2).long()] * (
        (scale.to(E4M3).float() * whole).repeat_interleave(16, 1)
    )
    form = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    unused = {f"{module}.input_scale": torch.tensor(0.5)}
    found, sources = opened(tmp_path, tensors | unused, lambda reader: (reader.read(NAME), reader.sources()), **form)
    assert (found.group, found.bits) == (16, 4)
    assert sources[""] == (f"{module}.input_scale",)
    assert torch.equal(dense(found), exact)
    tensors[f"{module}.pre_quant_scale"] = inputs
    assert torch.equal(opened(tmp_path, tensors, lambda reader: reader.read(NAME), **form), exact * inputs)


def test_nvfp4_experts_have_a_scale_each(tmp_path: Path) -> None:
    packed = torch.randint(0, 256, (2, 32, 32), dtype=torch.uint8)
    name, scale, whole = "model.layers.0.mlp.experts.down_proj", scales(2, 32, 4), torch.tensor([0.5, 3.0])
    tensors = {name: packed, f"{name}_weight_scale": scale, f"{name}_weight_scale_2": whole}
    form = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    found = opened(tmp_path, tensors, lambda reader: reader.read(name), **form)
    exact = E2M1[torch.stack([packed & 15, packed >> 4], -1).flatten(-2).long()]
    assert torch.allclose(dense(found), exact * scale.repeat_interleave(16, -1) * whole.view(2, 1, 1), rtol=1e-6)


def test_scales_of_activations_and_keys_are_left_out_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = NAME.removesuffix(".weight")
    unused = [f"{module}.activation_scale", f"{module}.input_scale", "model.layers.0.self_attn.k_proj.k_scale"]
    tensors = {NAME: floats(64, 64), f"{NAME}_scale_inv": scales(1, 1), **{name: torch.ones(1) for name in unused}}
    left_dense = {"lm_head.weight": torch.ones(8, 8), "lm_head.weight_scale": torch.ones(1)}
    with caplog.at_level(logging.INFO, "handler"):
        sources = opened(tmp_path, tensors | left_dense, lambda reader: reader.sources(), activation_scheme="static")
    assert set(sources[""]) == {*unused, "lm_head.weight_scale"}
    assert [record.message for record in caplog.records] == [
        "4 stored scales of activations and of the KV cache are not used"
    ]


def test_a_parameter_that_is_called_scale_stays(tmp_path: Path) -> None:
    """A module may have a weight and a scale, both dense parameters of the model."""
    own = {"model.clip.weight": torch.ones(4), "model.clip.scale": torch.ones(4), "model.a": torch.ones(2)}
    tensors = own | {"model.a_scale": torch.ones(2), NAME: floats(64, 64), f"{NAME}_scale_inv": scales(1, 1)}
    assert list(opened(tmp_path, tensors, lambda reader: reader.sources())) == [NAME]


@pytest.mark.parametrize(
    ("tensors", "values", "sentence"),
    [
        ({f"{NAME}_scale_inv": scales(3, 3)}, {}, "64 x 64 has scales of 3 x 3"),
        ({f"{NAME}_scale_inv": torch.full((1, 1), torch.nan)}, {}, "up_proj.weight_scale_inv holds NaN"),
        ({f"{NAME}_scale_inv": torch.full((1, 1), 255, dtype=torch.uint8)}, {}, "_scale_inv holds NaN"),
        ({}, {}, "no scale for it"),
        (
            {NAME: torch.ones(64, 32, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)},
            {},
            "in small floats, and no scale",
        ),
        ({}, {"modules_to_not_convert": ["gate_proj"]}, "no scale for it"),
        ({f"{NAME}_scale_inv": scales(1, 1)}, {"weight_block_size": [128]}, "weight_block_size is \\[128\\]"),
        ({f"{NAME}_scale_inv": scales(1, 1)}, {"weight_block_size": [0, 128]}, "weight_block_size is"),
        ({f"{NAME}_scale_inv": scales(1, 1)}, {"activation_scheme": "sometimes"}, "activation_scheme is 'sometimes'"),
        ({f"{NAME}_scale": scales(1)}, {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "quant_algo W4A16_AWQ"),
        (
            {f"{NAME}_scale": scales(1)},
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {"a": {"quant_algo": "X"}},
            },
            "quant_algo X is not read",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(BadModel, match=sentence):
        opened(tmp_path, {NAME: floats(64, 64), **tensors}, lambda reader: reader.read(NAME), **values)


def test_a_weight_that_holds_no_number_is_refused(tmp_path: Path) -> None:
    for dtype in (E4M3, E5M2):
        weight = floats(16, 16).to(dtype)
        weight[3, 3] = torch.nan
        with pytest.raises(BadModel, match="weight holds NaN"):
            opened(tmp_path, {NAME: weight, f"{NAME}_scale_inv": scales(1, 1)}, lambda reader: reader.read(NAME))


@pytest.mark.parametrize("key", ["modules_to_not_convert", "ignored_layers"])
def test_a_weight_in_the_list_needs_no_scale(key: str, tmp_path: Path) -> None:
    sources = opened(tmp_path, {NAME: floats(64, 64)}, lambda reader: reader.sources(), **{key: ["up_proj"]})
    assert dict(sources) == {}


def test_a_list_of_modules_means_what_it_means_to_transformers() -> None:
    from transformers.quantizers.quantizers_utils import should_convert_module

    modules = ["lm_head", "model.layers.1.mlp.gate", "model.layers.11.mlp.gate_proj", "model.layers.1.self_attn.q_proj"]
    patterns = [
        "lm_head",
        "gate",
        "model.layers.1",
        "mlp.gate",
        "model.layers.*.mlp",
        "model.layers.1.",
        "q_proj|lm",
        "",
    ]
    for module in modules:
        for pattern in patterns:
            assert is_skipped(module, [pattern]) is not should_convert_module(module, [pattern]), (module, pattern)
