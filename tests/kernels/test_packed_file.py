"""Packed matrices on disk: the same weights, made anew where the file is missing, damaged or cut short."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from handler.kernels.compiler import multiplies_matrices
from handler.linears.blocks_file import BLOCKS_FILE
from handler.linears.choice import computes_blocks, packed_linear
from handler.linears.packed_file import PackedWeight, file_name, packed_weights, write_packed
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import quantise, save_blocks
from handler.model.location import check_files
from handler.seam.errors import BadModel

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda _: b"",
    "cut in the header": lambda raw: raw[:40],
    "cut in the data": lambda raw: raw[: len(raw) // 2],
    "one byte short": lambda raw: raw[:-1],
    "header not JSON": lambda raw: raw[:8] + b"x" + raw[9:],
    "endless header": lambda raw: b"\xff" * 8 + raw[8:],
}


def matrix(bits: int, rows: int, columns: int) -> QuantisedWeight:
    generator = torch.Generator().manual_seed(rows + columns)
    found = quantise(torch.randn(rows, columns, generator=generator) * 0.05, bits)
    # Scales and minima as a GGUF file has them.
    return QuantisedWeight(bits, found.codes, found.scale.half().float(), found.minimum.half().float())


MATRICES = {"a.up": matrix(4, 128, 64), "a.down": matrix(4, 64, 128), "head": matrix(8, 192, 64)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What is converted of a GGUF file, as far as its packed matrices go."""
    directory = tmp_path / "model-0123"
    (directory / BLOCKS_FILE).parent.mkdir(parents=True)
    save_blocks(MATRICES, directory / BLOCKS_FILE)
    return directory


def weights(found: list[PackedWeight]) -> dict[str, torch.Tensor]:
    layers = {one.name: packed_linear(one.bits, one.packed, one.scales_and_zeros, None, None) for one in found}
    return {name: layer.weight for name, layer in layers.items()}


def check(found: list[PackedWeight], dtype: torch.dtype) -> None:
    got = weights(found)
    assert got.keys() == MATRICES.keys()
    for name, blocks in MATRICES.items():
        exact = blocks.dequantise(torch.float32)
        off = (got[name].float() - exact).abs()
        if computes_blocks(dtype) and multiplies_matrices():
            assert (off <= exact.abs() * 2**-8).all(), "our kernel changes no weight but by rounding it"
        elif computes_blocks(dtype):
            assert torch.equal(got[name], blocks.dequantise(dtype)), "our kernel changes no weight"
        else:
            torch.testing.assert_close(got[name].float(), exact, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_packed_once_and_read_again(model: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    cache = tmp_path / "cache"
    check(list(packed_weights(model, cache, dtype)), dtype)
    (kept,) = (cache / "packed").iterdir()
    assert kept.name == f"{model.name}-{file_name(dtype)}"
    (model / BLOCKS_FILE).unlink()
    check(list(packed_weights(model, cache, dtype)), dtype)


def test_what_lies_beside_the_model_comes_first(model: Path, tmp_path: Path) -> None:
    write_packed(model, model / "packed" / file_name(torch.float32), torch.float32)
    check(list(packed_weights(model, tmp_path / "cache", torch.float32)), torch.float32)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("where", ["beside the model", "in the cache"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_made_anew(
    model: Path, tmp_path: Path, where: str, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    dtype, cache = torch.float32, tmp_path / "cache"
    beside = model / "packed" / file_name(dtype)
    kept = beside if where == "beside the model" else cache / "packed" / f"{model.name}-{file_name(dtype)}"
    write_packed(model, kept, dtype)
    kept.write_bytes(damage(kept.read_bytes()))
    with caplog.at_level(logging.WARNING, "handler"):
        check(list(packed_weights(model, cache, dtype)), dtype)
        assert f"{kept} is damaged or cut short, and is made anew" in caplog.text
        caplog.clear()
        check(list(packed_weights(model, cache, dtype)), dtype)
    assert bool(caplog.text) == (kept == beside), "what lies beside a model is never written; the cache is whole again"


def test_a_cache_that_cannot_be_written_costs_time_only(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    cache.write_text("a file where a directory should be")
    with caplog.at_level(logging.WARNING, "handler"):
        check(list(packed_weights(model, cache, torch.float32)), torch.float32)
    assert "packed weights are not kept" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_blocks_are_one_sentence(model: Path, damage: Damage) -> None:
    (model / "config.json").write_text("{}")
    save_blocks(MATRICES, model / "model.safetensors")
    check_files(model, trust_remote_code=False)
    blocks = model / BLOCKS_FILE
    blocks.write_bytes(damage(blocks.read_bytes()))
    with pytest.raises(BadModel, match=r"blocks\.safetensors could not be loaded, it is damaged or cut short: "):
        check_files(model, trust_remote_code=False)
