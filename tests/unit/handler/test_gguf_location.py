"""A split file is all its parts, whichever is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from handler.formats.gguf.manifest import read_manifest
from handler.formats.gguf.reader import open_gguf
from handler.model.gguf.location import part_names, parts_of
from handler.model.gguf_model import converted
from handler.seam.errors import BadModel
from tests.support import tiny_gguf

NAMES = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]


def split(path: Path, directory: Path, change: Mapping[str, Any] | None = None) -> list[Path]:
    """`path` as gguf-split leaves it: the metadata in the first of three files, and a third of the tensors in each."""
    whole = gguf.GGUFReader(path)
    tensors = whole.tensors
    # The output layer last: who looks into the first part alone takes it for tied.
    tensors.sort(key=lambda tensor: tensor.name == "output.weight")
    third = -(-len(tensors) // 3)
    for number, name in enumerate(NAMES):
        writer = gguf.GGUFWriter(directory / name, "llama")
        if number == 0:
            for key, field in whole.fields.items():
                if not key.startswith("GGUF.") and key != "general.architecture":
                    kinds = field.types
                    writer.add_key_value(key, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
        said = {"split.no": number, "split.count": 3, "split.tensors.count": len(tensors), **(change or {})}
        writer.add_uint16("split.no", said["split.no"])
        writer.add_uint16("split.count", said["split.count"])
        writer.add_int32("split.tensors.count", said["split.tensors.count"])
        for tensor in tensors[number * third : (number + 1) * third]:
            writer.add_tensor(tensor.name, np.asarray(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return [directory / name for name in NAMES]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return tiny_gguf.write(tmp_path / "whole.gguf")


def convert(path: Path, tmp_path: Path) -> Path:
    return converted(path, tmp_path / "cache", lambda *_: None)


@pytest.mark.parametrize("given", [0, 2])
def test_any_part_stands_for_the_file(whole: Path, tmp_path: Path, given: int) -> None:
    made = convert(split(whole, tmp_path)[given], tmp_path)
    assert [Path(file.path).name for file in read_manifest(made).files] == NAMES
    found, expected = open_gguf(made), open_gguf(convert(whole, tmp_path))
    assert found.sources().keys() == expected.sources().keys()
    assert '"tie_word_embeddings": false' in (made / "config.json").read_text()
    for name in expected.sources():
        one, other = found.read(name), expected.read(name)
        assert isinstance(one, torch.Tensor)
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other)


def test_a_part_that_is_missing_is_named(whole: Path, tmp_path: Path) -> None:
    parts = split(whole, tmp_path)
    parts[1].unlink()
    with pytest.raises(BadModel, match=r"lacks m-00002-of-00003\.gguf, one of the 3 files of the model"):
        convert(parts[0], tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"split.count": 4}, r"file 1 of 3, and says that it is number 1 of 4; give it the name that gguf-split did"),
        ({"split.no": 1}, r"file 1 of 3, and says that it is number 2 of 3; "),
        ({"split.tensors.count": 99}, r"m-00001-of-00003\.gguf and its 2 other parts do not belong together"),
    ],
)
def test_parts_that_do_not_belong_together(whole: Path, tmp_path: Path, change: Any, sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        convert(split(whole, tmp_path, change)[0], tmp_path)


def test_a_part_under_another_name(whole: Path, tmp_path: Path) -> None:
    part = split(whole, tmp_path)[1].rename(tmp_path / "alone.gguf")
    with pytest.raises(BadModel, match=r"alone\.gguf is named as file 1 of 1, and says that it is number 2 of 3; "):
        convert(part, tmp_path)


def test_names_of_parts() -> None:
    assert part_names("a-Q4_K_M.gguf") == ["a-Q4_K_M.gguf"]
    assert part_names(NAMES[1]) == NAMES
    with pytest.raises(BadModel, match="is named as a part of no files"):
        parts_of(Path("a-00001-of-00000.gguf"))
