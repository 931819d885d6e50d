"""torchao's plain layouts give the exact weights; what is none, or does not fit, ends in one sentence."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from handler.formats.stored_format import reader_of
from handler.formats.tensor_files import open_tensors
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

NAME, PREFIX = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj._weight_"
GENERATOR = torch.Generator().manual_seed(5)
INT8 = torch.randint(-128, 128, (8, 64), dtype=torch.int8, generator=GENERATOR)
INT4 = torch.randint(-8, 8, (8, 64), dtype=torch.int8, generator=GENERATOR)
ROWS = torch.rand(8, 1, generator=GENERATOR) / 64
GROUPS = (torch.rand(8, 2, generator=GENERATOR) / 64).bfloat16()
POINTS = torch.randint(-8, 8, (8, 2), dtype=torch.int8, generator=GENERATOR)
FLOATS = torch.randn(8, 64, generator=GENERATOR).mul(20).to(torch.float8_e4m3fn)
PACKED = (INT4[:, ::2] & 15) | (INT4[:, 1::2] << 4)


def wide(scale: Tensor) -> Tensor:
    return scale.float().repeat_interleave(32, 1)


def read(directory: Path, kind: str | None, tensors: Mapping[str, Tensor], **values: Any) -> Any:
    """What the reader finds of a weight of torchao's class `kind` with these values."""
    named = {PREFIX + part: tensor.contiguous() for part, tensor in tensors.items()}
    metadata = {} if kind is None else {NAME: json.dumps({"_type": kind, "_data": values})}
    named["model.norm.weight"] = torch.ones(4)
    save_file(named, directory / "model.safetensors", metadata={**metadata, "format": "pt"})
    with open_tensors(directory) as files:
        reader = reader_of("torchao", {"quant_type": {}}, files)
        assert reader is not None
        assert {name: set(parts) for name, parts in reader.sources().items()} == {
            NAME: {PREFIX + part for part in tensors}
        }
        return reader.read(NAME)


# Class, its values, tensors, the exact weights, bits and group.
READ: dict[str, tuple[str, dict[str, Any], dict[str, Tensor], Tensor, int, int]] = {
    "int8": (
        *("Int8Tensor", {"block_size": [1, 64]}),
        {"qdata": INT8, "scale": ROWS, "zero_point": torch.zeros(8, 1, dtype=torch.int8)},
        *(INT8.float() * ROWS, 8, 64),
    ),
    "int8 of one scale": (
        *("Int8Tensor", {"block_size": [8, 64]}),
        {"qdata": INT8, "scale": torch.full((1, 1), 0.5)},
        *(INT8.float() * 0.5, 8, 64),
    ),
    "int8 with zero points": (
        *("Int8Tensor", {"block_size": [1, 32]}),
        {"qdata": INT8, "scale": GROUPS, "zero_point": POINTS},
        *((INT8.float() - wide(POINTS)) * wide(GROUPS), 8, 32),
    ),
    "int4 in int8": (
        *(
            "IntxUnpackedToInt8Tensor",
            {"block_size": [1, 32], "target_dtype": {"_type": "torch.dtype", "_data": "int4"}},
        ),
        {"qdata": INT4, "scale": GROUPS, "zero_point": torch.zeros_like(POINTS)},
        *(INT4.float() * wide(GROUPS), 4, 32),
    ),
    "int4 in bytes": (
        *("Int4Tensor", {"block_size": [1, 32], "shape": [8, 64]}),
        {"qdata": PACKED, "scale": GROUPS.T, "zero_point": (GROUPS * 3).T},
        *(INT4.float() * wide(GROUPS) + wide(GROUPS * 3), 4, 32),
    ),
    "float8": (
        *("Float8Tensor", {"block_size": [1, 64]}),
        {"qdata": FLOATS, "scale": ROWS},
        *(FLOATS.float() * ROWS, 8, 64),
    ),
}


@pytest.mark.parametrize("case", READ)
def test_plain_layouts_are_read(case: str, tmp_path: Path) -> None:
    kind, values, tensors, exact, bits, group = READ[case]
    found: QuantisedWeight = read(tmp_path, kind, tensors, **values)
    assert (found.bits, found.group) == (bits, group)
    assert int(found.codes.max()) < 1 << bits
    assert torch.allclose(found.dequantise(torch.float32), exact, rtol=1e-6, atol=1e-7)


def test_scaled_inputs_are_weights_with_scaled_columns(tmp_path: Path) -> None:
    inputs = torch.rand(64)
    tensors = {"qdata": INT8, "scale": ROWS, "act_pre_scale": inputs}
    assert torch.allclose(read(tmp_path, "Int8Tensor", tensors, block_size=[1, 64]), INT8.float() * ROWS * inputs)


def test_rounding_of_inputs_is_left_out_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "handler"):
        read(tmp_path, "Int8Tensor", {"qdata": INT8, "scale": ROWS}, act_quant_kwargs={"_type": "X"})
    assert [record.message for record in caplog.records] == [
        "torchao would round the inputs of these layers to 8 bits; here they keep their dtype"
    ]


INT4_VALUES = {"target_dtype": {"_data": "int4"}}


@pytest.mark.parametrize(
    ("kind", "tensors", "values", "sentence"),
    [
        ("Int4TilePackedTo4dTensor", {"qdata": INT8}, {}, "up_proj.weight is stored as torchao's Int4TilePackedTo4d"),
        ("Int4PlainInt32Tensor", {"qdata": INT8}, {}, "torchao's Int4PlainInt32Tensor, a layout for one kind"),
        ("MXTensor", {"qdata": INT8}, {}, "torchao's MXTensor"),
        (None, {"qdata": INT8}, {}, "metadata of the checkpoint does not say"),
        ("Int8Tensor", {"qdata": INT8}, {}, "up_proj._weight_scale is missing"),
        ("Int8Tensor", {"qdata": INT8, "scale": torch.ones(3, 1)}, {}, "8 x 64 has scales of 3 x 1"),
        ("Int8Tensor", {"qdata": INT8, "scale": ROWS * torch.nan}, {}, "up_proj.weight holds NaN"),
        ("Int8Tensor", {"qdata": FLOATS, "scale": ROWS}, {}, "is torch.float8_e4m3fn or has values"),
        ("IntxUnpackedToInt8Tensor", {"qdata": INT8, "scale": ROWS}, INT4_VALUES, "has values beyond 4 bits"),
    ],
)
def test_what_is_not_plain_or_does_not_fit_is_refused_by_name(
    kind: str | None, tensors: Mapping[str, Tensor], values: Mapping[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(BadModel, match=sentence):
        read(tmp_path, kind, tensors, **values)
