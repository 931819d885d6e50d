"""HQQ by every packing and grouping of hqq 0.2.8, and what is refused."""

from __future__ import annotations

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

SHAPE = (24, 96)
PACKINGS = {8: ("8bit_u8", 1), 4: ("4bit_u8", 2), 3: ("3bit_32", 10), 2: ("2bit_u8", 4), 1: ("1bit_u8", 8)}


def stored(bits: int, group: int, axis: int) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of a layer `m` with random codes, and its weight."""
    draw = torch.Generator().manual_seed(bits)
    num_groups = SHAPE[0] * SHAPE[1] // group
    sizes = (num_groups, group) if axis == 1 else (group, num_groups)
    codes = torch.randint(2**bits, sizes, generator=draw)
    each = (num_groups, 1) if axis == 1 else (1, num_groups)
    scale, zero = (torch.rand(each, generator=draw) + 0.5).half(), (torch.rand(each, generator=draw) * 2**bits).half()
    packing, num = PACKINGS[bits]
    rows = torch.cat([codes, torch.zeros(-sizes[0] % num, sizes[1], dtype=torch.int64)]).chunk(num)
    packed = sum(part << bits * (num - 1 - i) for i, part in enumerate(rows))
    tensors = {
        "m.W_q": torch.as_tensor(packed).to(torch.int32 if bits == 3 else torch.uint8),
        "m.scale": scale,
        "m.zero": zero,
        "m.shape": torch.tensor(SHAPE),
        "m.axis": torch.tensor(axis, dtype=torch.int32),
        "m.packing": torch.tensor(list(packing.encode()), dtype=torch.uint8),
    }
    return tensors, ((codes - zero.float()) * scale.float()).reshape(SHAPE)


def read(directory: Path, tensors: dict[str, Tensor]) -> Any:
    save_file(tensors, directory / "model.safetensors")
    with open_tensors(directory) as files:
        reader = reader_of("hqq", {}, files)
        assert reader is not None
        return reader.read("m.weight")


@pytest.mark.parametrize("bits", PACKINGS)
@pytest.mark.parametrize(("group", "axis"), [(32, 1), (96, 1), (64, 1), (32, 0)])
def test_every_packing_is_read(bits: int, group: int, axis: int, tmp_path: Path) -> None:
    tensors, dense = stored(bits, group, axis)
    found = read(tmp_path, tensors)
    # Groups of 64 go over the ends of rows of 96.
    assert isinstance(found, QuantisedWeight) is (axis == 1 and group != 64)
    if isinstance(found, QuantisedWeight):
        assert (found.bits, found.group) == (bits, group)
        found = found.dequantise(torch.float32)
    torch.testing.assert_close(found, dense, rtol=1e-6, atol=1e-5)


def test_codes_stored_as_floats_are_the_same_octets(tmp_path: Path) -> None:
    tensors, dense = stored(4, 32, 1)
    tensors["m.W_q"] = tensors["m.W_q"].view(torch.float16)
    torch.testing.assert_close(read(tmp_path, tensors).dequantise(torch.float32), dense, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop("m.zero"), "has no zero"),  # quantised themselves
        (lambda tensors: tensors.update({"m.packing": torch.tensor(list(b"x"), dtype=torch.uint8)}), "packing x"),
        (lambda tensors: tensors.update({"m.scale": tensors["m.scale"][:5]}), "do not fit together as HQQ"),
        (lambda tensors: tensors.update({"m.shape": torch.tensor([24, 97])}), "do not fit together as HQQ"),
    ],
)
def test_what_does_not_fit_is_named(change: Any, says: str, tmp_path: Path) -> None:
    tensors, _ = stored(4, 32, 1)
    change(tensors)
    with pytest.raises(BadModel, match=says) as raised:
        read(tmp_path, tensors)
    assert "take a checkpoint of the same model" in str(raised.value)
