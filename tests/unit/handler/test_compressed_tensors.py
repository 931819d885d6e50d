"""compressed-tensors: what the library wrote is read as it reads it itself, and what cannot be read is named."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from handler.formats.compressed_tensors import reader
from handler.formats.compressed_tensors.checkpoint import CompressedTensors
from handler.formats.compressed_tensors.codes import float_table, unpack
from handler.formats.stored_format import reader_of
from handler.formats.tensor_files import open_tensors
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

FIXTURES = sorted((Path(__file__).parents[2] / "data" / "formats").glob("compressed_tensors-*"))
INT4 = {"num_bits": 4, "strategy": "group", "group_size": 8}
INT8 = {"num_bits": 8, "strategy": "channel"}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
LINEAR = "layer.up_proj"


def values(weights: Mapping[str, Any] | None, **others: Any) -> dict[str, Any]:
    """A `quantization_config` with one group of all linear layers."""
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "version": "0.20.1", "config_groups": groups, **others}


def packed(codes: Tensor, bits: int, whole_words: bool = False) -> Tensor:
    """int32 words of codes `[rows, columns]`: one long number a row, lowest code first."""
    rows = []
    for row in codes.tolist():
        place = (lambda i: i // (32 // bits) * 32 + i % (32 // bits) * bits) if whole_words else (lambda i: i * bits)
        number = sum(code << place(i) for i, code in enumerate(row))
        size = -(-(place(len(row) - 1) + bits) // 32) * 4
        rows.append(list(number.to_bytes(size, "little")))
    return torch.tensor(rows, dtype=torch.uint8).view(torch.int32)


@contextmanager
def opened(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[CompressedTensors]:
    save_file({name: each.contiguous() for name, each in tensors.items()}, directory / "model.safetensors")
    with open_tensors(directory) as files:
        yield reader(config, files)


def read(directory: Path, weights: Mapping[str, Any], parts: Mapping[str, Tensor], **others: Any) -> Any:
    """The one weight of a checkpoint with these parts of a module."""
    tensors = {f"{LINEAR}.{part}": each for part, each in parts.items()}
    with opened(directory, values(weights, **others), tensors) as found:
        return found.read(f"{LINEAR}.weight")


def int4_parts() -> dict[str, Tensor]:
    """A sound module of INT4, `[4, 16]`."""
    codes = torch.arange(64).view(4, 16) % 16
    return {"weight_packed": packed(codes, 4), "weight_scale": torch.ones(4, 2), "weight_shape": torch.tensor([4, 16])}


@pytest.mark.parametrize("directory", FIXTURES, ids=lambda each: each.name.removeprefix("compressed_tensors-"))
def test_what_the_library_wrote_is_read_as_it_reads_it(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    expected = load_file(directory / "expected.safetensors")
    rows = {name.removeprefix("rows."): each for name, each in expected.items() if name.startswith("rows.")}
    with open_tensors(directory) as files:
        found = reader_of(config["quant_method"], config, files)
        assert found is not None
        assert set(found.sources()) == set(rows)
        dense = set(files) - {part for parts in found.sources().values() for part in parts}
        assert all(files[name].dtype == torch.bfloat16 for name in dense)
        for name, row in rows.items():
            weight = found.read(name)
            assert isinstance(weight, QuantisedWeight)
            got = weight.dequantise(torch.float32)[: len(row)]
            assert torch.allclose(got, row, rtol=1e-6, atol=1e-6 * row.abs().max()), name


def test_fixtures_have_each_form() -> None:
    kinds = {"w4a16", "w4a16-asym", "w8a16", "w8a8", "old", "fp8", "fp8-block", "nvfp4", "mxfp4", "mixed"}
    assert {each.name.removeprefix("compressed_tensors-") for each in FIXTURES} == kinds


@given(st.integers(1, 8), st.integers(1, 70), st.booleans(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_codes_come_out_of_words(bits: int, count: int, whole_words: bool, random: Any) -> None:
    codes = torch.tensor([[random.randrange(1 << bits) for _ in range(count)] for _ in range(2)])
    words = packed(codes, bits, whole_words)
    assert torch.equal(unpack(words, bits, count, is_dense=not whole_words).int(), codes.int())


def test_floats_have_the_values_of_their_bits() -> None:
    assert float_table(4)[:8].tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert torch.equal(float_table(4)[8:], -float_table(4)[:8])
    assert float_table(6)[[1, 8, 9, 31, 63]].tolist() == [0.125, 1, 1.125, 7.5, -7.5]
    assert float_table(8)[[0x01, 0x38, 0x7E, 0xB8]].tolist() == [2**-9, 1, 448, -1]


def test_a_global_scale_divides(tmp_path: Path) -> None:
    words = torch.full((2, 8), 0x21, dtype=torch.uint8)  # 0.5 and 1
    parts = {"weight_packed": words, "weight_scale": torch.full((2, 1), 3.0).to(torch.float8_e4m3fn)}
    weight = read(tmp_path, FP4, {**parts, "weight_global_scale": torch.tensor([4.0])})
    assert weight.dequantise(torch.float32)[1, :2].tolist() == [0.375, 0.75]


def test_bytes_of_a_scale_are_exponents(tmp_path: Path) -> None:
    words, scale = torch.full((1, 16), 0x21, dtype=torch.uint8), torch.tensor([[130]], dtype=torch.uint8)
    group = {**FP4, "strategy": "group", "group_size": 32}
    weight = read(tmp_path, group, {"weight_packed": words, "weight_scale": scale})
    assert weight.dequantise(torch.float32)[0, :2].tolist() == [4, 8]


ZERO_POINTS = [[1, 2], [-3, 4], [7, -8], [0, 0]]


@pytest.mark.parametrize("form", ["packed along the outputs", "bytes of older files"])
def test_zero_points_belong_to_outputs_and_groups(tmp_path: Path, form: str) -> None:
    zeros = torch.tensor(ZERO_POINTS)
    stored = packed((zeros + 8).t(), 4).t() if form.startswith("packed") else zeros.to(torch.int8)
    weight = read(tmp_path, {**INT4, "symmetric": False}, {**int4_parts(), "weight_zero_point": stored})
    expected = (torch.arange(64).view(4, 16) % 16 - 8).float() - zeros.repeat_interleave(8, 1)
    assert torch.equal(weight.dequantise(torch.float32), expected)


def test_zero_points_of_a_symmetric_group_are_a_constant(tmp_path: Path) -> None:
    parts = {**int4_parts(), "weight_zero_point": torch.zeros(4, 2, dtype=torch.int8)}
    weight = read(tmp_path, INT4, parts)
    assert (weight.zero, weight.minimum) == (8, None)
    assert read(tmp_path, {**INT4, "symmetric": False}, parts).minimum is not None


def test_older_files_leave_zero_points_of_zero_out(tmp_path: Path) -> None:
    weight = read(tmp_path, {**INT4, "symmetric": False}, int4_parts(), version="0.7.1")
    assert (weight.zero, weight.minimum) == (8, None)


@pytest.mark.parametrize(("groups", "is_ordered"), [([1, 0] * 8, True), ([0] * 8 + [1] * 8, False), ([-1] * 16, False)])
def test_inputs_have_the_groups_that_g_idx_says(tmp_path: Path, groups: list[int], is_ordered: bool) -> None:
    parts = int4_parts() | {"weight_scale": torch.tensor([[1.0, 10.0]] * 4)}
    weight = read(tmp_path, INT4, {**parts, "weight_g_idx": torch.tensor(groups, dtype=torch.int32)})
    of_input = groups if is_ordered else [0] * 8 + [1] * 8
    expected = (torch.arange(64).view(4, 16) % 16 - 8) * torch.tensor([10.0 if group else 1.0 for group in of_input])
    assert torch.equal(weight.dequantise(torch.float32), expected)
    assert (weight.order is not None) == is_ordered


def test_one_scale_is_that_of_each_row(tmp_path: Path) -> None:
    parts = {"weight": torch.tensor([[-128, 127], [0, 1]], dtype=torch.int8), "weight_scale": torch.tensor(0.5)}
    weight = read(tmp_path, {"num_bits": 8}, parts)
    assert torch.equal(weight.dequantise(torch.float32), torch.tensor([[-64, 63.5], [0, 0.5]]))


def test_a_block_has_one_scale(tmp_path: Path) -> None:
    """Neither the rows nor the inputs fill the last block."""
    scale = torch.arange(1.0, 5).view(2, 2)
    block = {**FP8, "strategy": "block", "block_structure": "2x4"}
    weight = read(tmp_path, block, {"weight": torch.ones(3, 6).to(torch.float8_e4m3fn), "weight_scale": scale})
    expected = [[1.0] * 4 + [2.0] * 2] * 2 + [[3.0] * 4 + [4.0] * 2]
    assert (weight.group, weight.dequantise(torch.float32).tolist()) == (2, expected)


@pytest.mark.parametrize(("version", "whole_words"), [("0.17.0", True), ("0.18.0", False), ("0.20.1", False)])
def test_the_version_tells_words_of_the_same_number_apart(tmp_path: Path, version: str, whole_words: bool) -> None:
    codes = torch.arange(20).view(1, 20) % 8
    parts = {"weight_packed": packed(codes, 3, whole_words), "weight_scale": torch.ones(1, 1)}
    parts["weight_shape"] = torch.tensor([1, 20])
    weight = read(tmp_path, {"num_bits": 3, "strategy": "channel"}, parts, version=version)
    assert weight.codes.tolist() == codes.tolist()


def test_four_bits_may_lie_in_bytes(tmp_path: Path) -> None:
    parts = {"weight": torch.tensor([[-8, 7]], dtype=torch.int8), "weight_scale": torch.tensor([[2.0]])}
    weight = read(tmp_path, {"num_bits": 4, "strategy": "channel"}, parts, format="int-quantized")
    assert (weight.bits, weight.codes.tolist()) == (4, [[0, 15]])


def test_scales_of_activations_and_cache_are_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    unused = [f"{LINEAR}.input_scale", "layer.attn.k_scale", "layer.attn.v_scale", "layer.k_proj.output_scale"]
    config = values(INT4, kv_cache_scheme={"num_bits": 8, "type": "float"})
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": True}
    tensors = {f"{LINEAR}.{part}": each for part, each in int4_parts().items()}
    with opened(tmp_path, config, tensors | {name: torch.ones(1) for name in unused}) as found:
        assert set(found.sources()) == {f"{LINEAR}.weight", ""}
        assert sorted(found.sources()[""]) == sorted(unused)
    said = [record.getMessage() for record in caplog.records]
    assert ["activations" in text for text in said] == [True, False]
    assert ["cache" in text for text in said] == [False, True]


@pytest.mark.parametrize(
    ("targets", "module", "bits"),
    [
        (["Linear", r"re:.*\.up_proj$", LINEAR], LINEAR, 4),
        (["Linear", LINEAR, r"re:.*\.up_proj$"], LINEAR, 3),
        (["Linear", r"re:.*\.down_proj$", "lm_head"], LINEAR, 2),
        (["Linear", "Embedding", "lm_head"], "model.embed_tokens", 3),
        (["Embedding", "Linear", "lm_head"], LINEAR, 3),
        (["MyLinear", r"re:a", "lm_head"], LINEAR, 2),
    ],
)
def test_a_name_goes_before_a_pattern_before_a_class(
    tmp_path: Path, targets: list[str], module: str, bits: int
) -> None:
    groups = {
        f"group_{i}": {"targets": [target], "weights": {"num_bits": i + 2, "strategy": "channel"}}
        for i, target in enumerate(targets)
    }
    codes = torch.arange(32).view(1, 32) % (1 << bits)
    parts = {"weight_packed": packed(codes, bits), "weight_scale": torch.ones(1, 1)}
    config = values(None, format="pack-quantized") | {"config_groups": groups}
    with opened(tmp_path, config, {f"{module}.{part}": each for part, each in parts.items()}) as found:
        weight = found.read(f"{module}.weight")
    assert isinstance(weight, QuantisedWeight)
    assert (weight.bits, weight.codes.tolist()) == (bits, codes.tolist())


@pytest.mark.parametrize(
    "others",
    [
        {"quantization_status": "frozen"},  # what older versions say of compressed weights
        {"sparsity_config": {"format": "dense"}, "transform_config": {"config_groups": {}}},
        {"ignore": [LINEAR]},  # its tensors say that it is quantised
    ],
)
def test_what_changes_no_weight_is_taken(tmp_path: Path, others: dict[str, Any]) -> None:
    assert isinstance(read(tmp_path, INT4, int4_parts(), **others), QuantisedWeight)


def test_a_config_of_older_files_holds_another(tmp_path: Path) -> None:
    tensors = {f"{LINEAR}.{part}": each for part, each in int4_parts().items()}
    with opened(tmp_path, {"quantization_config": values(INT4), "sparsity_config": {}}, tensors) as found:
        assert isinstance(found.read(f"{LINEAR}.weight"), QuantisedWeight)


def test_a_weight_made_dense_again_stays_dense(tmp_path: Path) -> None:
    parts = {"weight": torch.ones(4, 16, dtype=torch.bfloat16), "weight_scale": torch.ones(4, 2)}
    dense = read(tmp_path, INT4, parts, quantization_status="decompressed")
    assert torch.equal(dense, parts["weight"])
    with pytest.raises(BadModel, match=r"layer\.up_proj\.weight has a scale but is not rounded"):
        read(tmp_path, INT4, parts, quantization_status="frozen")


REFUSED: list[tuple[dict[str, Any], str]] = [
    (values({"num_bits": 16}), "num_bits 16"),
    (values({"num_bits": 5, "type": "float"}), "type float with num_bits 5"),
    (values({**INT4, "strategy": "token"}), "strategy token"),
    (values({**INT4, "group_size": 0}), "group_size, not 0"),
    (values({**FP8, "strategy": "block"}), "strategy block with block_structure None"),
    (values({**FP8, "strategy": "block", "block_structure": [128]}), r"block_structure \[128\]"),
    ({"config_groups": {"W4A16": ["Linear"]}}, "config group W4A16"),
    ({"config_groups": ["W4A16"]}, "config_groups of config.json must be an object"),
]


@pytest.mark.parametrize(("config", "named"), REFUSED, ids=[named for *_, named in REFUSED])
def test_a_config_that_is_not_read_is_named(tmp_path: Path, config: dict[str, Any], named: str) -> None:
    with pytest.raises(BadModel, match=f"{named}.*; quantise"), opened(tmp_path, config, {"a.weight": torch.ones(1)}):
        pass


E8M0 = torch.tensor([[255, 127]] * 4, dtype=torch.uint8)
UNSOUND: list[tuple[dict[str, Any], dict[str, Tensor | None], str]] = [
    (INT4, {"weight_scale": None}, "lacks layer.up_proj.weight_scale"),
    ({**INT4, "symmetric": False}, {}, "lacks layer.up_proj.weight_zero_point"),
    (INT4, {"weight_scale": torch.ones(4, 3)}, r"weight_scale .* needs \[4, 2\] of them, not \[4, 3\]"),
    (INT4, {"weight_scale": torch.ones(2, 4)}, r"weight_scale .* needs \[4, 2\] of them, not \[2, 4\]"),
    (INT4, {"weight_scale": torch.full((4, 2), torch.inf)}, "weight_scale .* not a finite number"),
    (INT4, {"weight_scale": E8M0}, "weight_scale .* not a finite number"),
    (INT4, {"weight_global_scale": torch.zeros(1)}, "weight_scale .* not a finite number"),
    (INT4, {"weight_global_scale": torch.ones(2)}, r"weight_global_scale .* its shape is \[2\]"),
    (INT4, {"weight_shape": torch.tensor([4, 40])}, r"weight_packed .* do not hold 40 codes of 4 bits"),
    (INT4, {"weight_shape": torch.tensor([8, 16])}, "weight_packed .* it has 4 rows, and weight_shape says 8"),
    ({**INT4, "group_size": 12}, {}, "weight_scale .* 16 inputs are no multiple of group_size 12"),
    (INT4, {"weight_packed": torch.ones(4, 2, dtype=torch.uint8)}, "weight_packed is uint8, .* needs int32"),
    (FP4, {}, "weight_packed is int32, .* needs uint8"),
    (INT4, {"weight_packed": torch.ones(2, 4, 2, dtype=torch.int32)}, r"weight_packed .* its shape is \[2, 4, 2\]"),
    (INT4, {"weight_zero_point": torch.ones(4, 2, dtype=torch.int32)}, "weight_zero_point .* do not hold 4 codes"),
    (INT4, {"weight_g_idx": torch.zeros(16, dtype=torch.int32)}, "weight_g_idx .* not every group has 8 inputs"),
    (INT4, {"weight_g_idx": torch.zeros(8, dtype=torch.int32)}, r"weight_g_idx .* its shape is \[8\]"),
    (INT8, {"weight_packed": None, "weight": torch.ones(4, 16, dtype=torch.uint8)}, "weight is uint8, .* needs int8"),
    (INT8, {"weight_packed": None, "weight": torch.ones(4, dtype=torch.int8)}, r"weight .* its shape is \[4\]"),
    (INT4, {"weight_packed": None, "weight": torch.full((4, 16), 8, dtype=torch.int8)}, "numbers of more than 4 bits"),
]


@pytest.mark.parametrize(
    ("weights", "changes", "named"), UNSOUND, ids=lambda each: each if isinstance(each, str) else ""
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, weights: dict[str, Any], changes: dict[str, Tensor | None], named: str
) -> None:
    parts = {part: each for part, each in (int4_parts() | changes).items() if each is not None}
    with pytest.raises(BadModel, match=rf"{named}.*(again|it again)$"):
        read(tmp_path, weights, parts)


def test_a_module_of_no_group_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"no config group of config.json has layer\.up_proj"):
        read(tmp_path, {}, int4_parts())


def test_experts_in_one_quantised_tensor_are_refused(tmp_path: Path) -> None:
    tensors = {"layer.experts.gate_up_proj_scale": torch.ones(2, 4, 2)}
    refused = pytest.raises(BadModel, match="gate_up_proj_scale: experts quantised in one tensor")
    with refused, opened(tmp_path, values(INT4), tensors):
        pass
