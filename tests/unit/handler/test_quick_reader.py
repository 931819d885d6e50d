"""`QuickReader` gives what `gguf.GGUFReader` gives, and transformers reads with it while a file is converted."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from handler.model.gguf.quick_reader import QuickReader, reading_quickly

ARRAYS: dict[str, list[Any]] = {
    "words": ["", "a", "größer", "\u0120the", "x" * 300],
    "numbers": [1, -2, 3],
    "floats": [0.5, -1.25],
    "flags": [True, False],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_string("name", "größer")
    writer.add_uint32("count", 7)
    for key, values in ARRAYS.items():
        writer.add_key_value(key, values, GGUFValueType.ARRAY, sub_type=GGUFValueType.get_type(values[0]))
    writer.add_float32("last", 0.25)
    writer.add_tensor("token_embd.weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return tmp_path / "model.gguf"


def test_all_fields_and_tensors_are_those_of_the_package(path: Path) -> None:
    expected, found = GGUFReader(path), QuickReader(path)
    assert list(found.fields) == list(expected.fields)
    for name, field in expected.fields.items():
        same = found.fields[name]
        assert (same.types, same.offset, same.contents()) == (field.types, field.offset, field.contents()), name
        assert len(same.data) == len(field.data)
    assert [str(tensor) for tensor in found.tensors] == [str(tensor) for tensor in expected.tensors]
    assert found.fields["words"].contents(-2) == ARRAYS["words"][-2]


def test_values_that_transformers_parses_are_the_same(path: Path) -> None:
    from transformers.modeling_gguf_pytorch_utils import read_field

    expected, found = GGUFReader(path), QuickReader(path)
    for name in expected.fields:
        assert read_field(found, name) == read_field(expected, name), name


def test_a_file_that_ends_within_an_array_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"the") + 1])
    with pytest.raises(ValueError, match="ends behind the file"):
        QuickReader(path)


def test_an_array_of_more_numbers_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
    array = struct.pack("<Q4sIIQ", 4, b"many", GGUFValueType.ARRAY, GGUFValueType.UINT8, 1_000_000)
    (tmp_path / "model.gguf").write_bytes(head + array + bytes(64))
    with pytest.raises(ValueError, match=r"an array .* ends behind the file"):
        QuickReader(tmp_path / "model.gguf")


def test_transformers_reads_a_file_once_and_only_inside_the_block(path: Path) -> None:
    with reading_quickly():
        assert isinstance(gguf.GGUFReader(path), QuickReader)
        assert gguf.GGUFReader(path) is gguf.GGUFReader(path)
        arch = gguf.MODEL_ARCH.LLAMA
        assert gguf.get_tensor_name_map(arch, 2) is gguf.get_tensor_name_map(arch, 2)
    assert gguf.GGUFReader is GGUFReader
