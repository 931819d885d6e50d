"""Tensors of a mapped file: as the library reads them, and out of memory once they are not used."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from handler.formats.safetensors_file import SafetensorsFile

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e8m0fnu,
    torch.float4_e2m1fn_x2,
    torch.int64,
    torch.uint8,
    torch.bool,
]
MIB = 1 << 20


def resident(path: Path) -> int:
    """Bytes of `path` that this process has in memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    of_file = [next(line for line in lines if line.startswith("Rss:")) for line in lines if line.endswith(str(path))]
    return sum(int(line.split()[1]) << 10 for line in of_file)


def test_tensors_are_those_that_the_library_reads(tmp_path: Path) -> None:
    bytes_ = torch.arange(64, dtype=torch.uint8)
    tensors = {str(dtype): (bytes_ > 7 if dtype is torch.bool else bytes_.clone().view(dtype)) for dtype in DTYPES}
    tensors |= {"empty": torch.empty(0, 3), "number": torch.tensor(7), "matrix": torch.rand(3, 5)}
    save_file(tensors, tmp_path / "some.safetensors", metadata={"format": "pt"})
    found = SafetensorsFile(tmp_path / "some.safetensors")
    assert found.metadata == {"format": "pt"}
    with safe_open(tmp_path / "some.safetensors", "pt") as expected:
        assert sorted(found.names()) == sorted(expected.keys())
        for name in found.names():
            assert found.shape(name) == tuple(expected.get_slice(name).get_shape())
            assert found.dtype(name) == expected.get_slice(name).get_dtype()
            tensor = found.tensor(name)
            assert tensor.dtype is tensors[name].dtype
            flat, wanted = tensor.reshape(-1), expected.get_tensor(name).reshape(-1)
            assert tensor.shape == tensors[name].shape
            assert torch.equal(flat.view(torch.uint8), wanted.view(torch.uint8))


def test_pages_leave_with_their_tensor_and_come_back_for_a_view(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    save_file(
        {"one": torch.ones(4 * MIB, dtype=torch.uint8), "two": torch.full((4 * MIB,), 2, dtype=torch.uint8)}, path
    )
    file = SafetensorsFile(path)
    one = file.tensor("one")
    view = one[MIB:]
    assert int(one.sum()) == 4 * MIB
    assert resident(path) >= 4 * MIB
    del one
    assert resident(path) < MIB
    assert int(view.sum()) == 3 * MIB
    assert int(file.tensor("two").sum()) == 8 * MIB
    assert resident(path) < 4 * MIB
