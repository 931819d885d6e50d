"""Readers give what the library that wrote a checkpoint makes of it, and know all its tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from handler.formats.stored_format import reader_of
from handler.formats.tensor_files import open_tensors
from handler.linears.quantised_weight import QuantisedWeight

FORMATS = Path(__file__).resolve().parents[3] / "data" / "formats"
STORED = sorted(path.parent.name for path in FORMATS.glob("*/model.safetensors"))


@pytest.mark.parametrize("name", STORED)
def test_a_reader_gives_the_rows_of_the_library(name: str) -> None:
    form = json.loads((FORMATS / name / "config.json").read_text("utf-8"))["quantization_config"]
    expected = load_file(FORMATS / name / "expected.safetensors")
    rows = {key.removeprefix("rows."): value for key, value in expected.items() if key.startswith("rows.")}
    assert rows
    with open_tensors(FORMATS / name) as tensors:
        reader = reader_of(form["quant_method"], form, tensors)
        assert reader is not None
        sources = reader.sources()
        assert rows.keys() <= sources.keys()
        named = [source for found in sources.values() for source in found]
        assert set(named) <= set(tensors)
        for weight, found in rows.items():
            given = reader.read(weight)
            dense = given.dequantise(torch.float32) if isinstance(given, QuantisedWeight) else given.float()
            torch.testing.assert_close(dense[..., : found.shape[-2], :], found, rtol=1e-6, atol=1e-6)


def test_every_fixture_says_what_it_is_and_is_small() -> None:
    for path in FORMATS.iterdir():
        assert {"config.json", "expected.safetensors", "made_by.json"} <= {each.name for each in path.iterdir()}
        assert sum(each.stat().st_size for each in path.iterdir()) < 160_000, path
        assert {"torch", "transformers"} <= json.loads((path / "made_by.json").read_text("utf-8")).keys()
