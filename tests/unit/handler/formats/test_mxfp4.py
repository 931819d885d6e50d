"""MXFP4 experts are read as transformers dequantises them, with their outputs first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from handler.formats.stored_format import reader_of
from handler.formats.tensor_files import open_tensors
from handler.seam.errors import BadModel

NAME = "model.layers.0.mlp.experts.gate_up_proj"
GENERATOR = torch.Generator().manual_seed(3)
BLOCKS = torch.randint(0, 256, (2, 24, 3, 16), dtype=torch.uint8, generator=GENERATOR)
SCALES = torch.randint(100, 140, (2, 24, 3), dtype=torch.uint8, generator=GENERATOR)


def read(directory: Path, tensors: Mapping[str, Tensor]) -> Any:
    save_file(dict(tensors), directory / "model.safetensors")
    with open_tensors(directory) as files:
        reader = reader_of("mxfp4", {"modules_to_not_convert": ["lm_head"]}, files)
        assert reader is not None
        assert dict(reader.sources()) == {NAME: (f"{NAME}_blocks", f"{NAME}_scales")}
        return reader.read(NAME)


def test_experts_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    found = read(tmp_path, {f"{NAME}_blocks": BLOCKS, f"{NAME}_scales": SCALES, "lm_head.weight": torch.ones(2, 2)})
    assert (found.shape, found.group, found.bits) == ((2, 24, 96), 32, 4)
    exact = convert_moe_packed_tensors(BLOCKS, SCALES, dtype=torch.float32)
    assert torch.equal(found.dequantise(torch.float32), exact.transpose(1, 2))


def test_the_smallest_scale_is_a_number(tmp_path: Path) -> None:
    found = read(tmp_path, {f"{NAME}_blocks": BLOCKS, f"{NAME}_scales": torch.zeros_like(SCALES)})
    assert found.scale.unique().tolist() == [2.0**-127]


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({}, "and no model.layers.0.mlp.experts.gate_up_proj_scales"),
        ({f"{NAME}_scales": SCALES[:, :, :2].contiguous()}, r"_scales torch.uint8 \[2, 24, 2\], not bytes"),
        ({f"{NAME}_scales": SCALES.float()}, "_scales torch.float32"),
        ({f"{NAME}_scales": torch.full_like(SCALES, 255)}, "_scales holds NaN"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tensors: Mapping[str, Tensor], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=sentence):
        read(tmp_path, {f"{NAME}_blocks": BLOCKS, **tensors})
