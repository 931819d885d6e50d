"""AWQ where checkpoints differ from the fixtures: scales of activations, no zero points, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from handler.formats.stored_format import StoredFormat, reader_of
from handler.formats.tensor_files import open_tensors
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

FORMATS = Path(__file__).resolve().parents[3] / "data" / "formats"
GEMM = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
LAYER = "model.layers.0.mlp.down_proj"


def tensors(name: str, layer: str) -> dict[str, Tensor]:
    """The down projection of a fixture, called `layer`."""
    found = load_file(FORMATS / name / "model.safetensors")
    return {f"{layer}.{part}": found[f"{LAYER}.{part}"] for part in ("qweight", "qzeros", "scales")}


def read(directory: Path, parts: dict[str, Tensor], name: str, form: dict[str, Any]) -> Any:
    save_file(parts, directory / "model.safetensors")
    with open_tensors(directory) as files:
        reader: StoredFormat | None = reader_of(form["quant_method"], form, files)
        assert reader is not None
        assert {source for found in reader.sources().values() for source in found} == set(parts)
        return reader.read(name)


@pytest.mark.parametrize("name", ["c_proj", "down_proj", "dense_4h_to_h", "fc_out"])
def test_scales_of_an_activation_divide_the_next_weight(name: str, tmp_path: Path) -> None:
    parts = tensors("awq-gemm-g32", f"h.0.mlp.{name}")
    plain = read(tmp_path, parts, f"h.0.mlp.{name}.weight", GEMM).dequantise(torch.float32)
    parts["h.0.mlp.act.scales"] = torch.rand(128).half() + 0.5
    found = read(tmp_path, parts, f"h.0.mlp.{name}.weight", GEMM)
    rows = torch.randn(3, 128)
    expected = torch.nn.functional.linear(rows / parts["h.0.mlp.act.scales"].float(), plain)
    torch.testing.assert_close(torch.nn.functional.linear(rows, found), expected)


@pytest.mark.parametrize("name", ["h.0.mlp.act.scales", "h.0.router.scales", "scales.scales"])
def test_scales_beside_no_layer_after_an_activation_are_a_dense_weight(name: str, tmp_path: Path) -> None:
    save_file(tensors("awq-gemm-g32", "h.0.mlp.other") | {name: torch.ones(128)}, tmp_path / "model.safetensors")
    with open_tensors(tmp_path) as files:
        found = reader_of("awq", GEMM, files)
        assert found is not None
        assert [*found.sources()] == ["h.0.mlp.other.weight"]
        assert name not in found.sources()["h.0.mlp.other.weight"]
        assert isinstance(found.read("h.0.mlp.other.weight"), QuantisedWeight)


def test_without_zero_points_codes_are_centred(tmp_path: Path) -> None:
    parts = tensors("awq-gemm-g32", "m")
    centred = {**parts, "m.qzeros": torch.full_like(parts["m.qzeros"], -0x77777778)}  # 0x88888888
    expected = read(tmp_path, centred, "m.weight", GEMM)
    del parts["m.qzeros"]
    found = read(tmp_path, parts, "m.weight", GEMM | {"zero_point": False})
    assert (found.zero, found.minimum) == (expected.zero, expected.minimum) == (8, None)
    assert torch.equal(found.codes, expected.codes)


def test_the_layout_of_llm_awq_is_that_of_gemv_fast(tmp_path: Path) -> None:
    parts = tensors("awq-gemv-fast", "m")
    form = GEMM | {"version": "gemv_fast", "group_size": 64}
    expected = read(tmp_path, parts, "m.weight", form)
    parts["m.scaled_zeros"] = parts.pop("m.qzeros")
    found = read(tmp_path, parts, "m.weight", form | {"version": "llm-awq"})
    assert torch.equal(found.dequantise(torch.float32), expected.dequantise(torch.float32))


@pytest.mark.parametrize("packing", ["auto_round:auto_awq", "auto_round:awq:exllamav2"])
def test_auto_round_packs_as_gemm(packing: str, tmp_path: Path) -> None:
    parts = tensors("awq-gemm-g32", "m")
    expected = read(tmp_path, parts, "m.weight", GEMM)
    form = {"quant_method": "intel/auto-round", "bits": 4, "group_size": 32, "backend": packing}
    assert torch.equal(read(tmp_path, parts, "m.weight", form).codes, expected.codes)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (GEMM | {"version": "marlin"}, "awq in the version marlin"),
        (GEMM | {"bits": 8}, "awq in 8 bits"),
        (GEMM | {"version": "gemv", "group_size": 96}, "m do not fit together as AWQ: qweight"),
        (GEMM | {"version": "gemv"}, "m do not fit together as AWQ: qweight"),
    ],
)
def test_what_is_not_read_is_refused(form: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=f"{says}.*; take "):
        read(tmp_path, tensors("awq-gemm-g32", "m"), "m.weight", form)
