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
from handler.model.gguf.location import choose, gguf_ids, gguf_in, is_gguf_id, part_names, parts_of
from handler.model.gguf_model import converted
from handler.model.location import locate
from handler.seam.config import EngineConfig
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


FILES = [
    "README.md",
    "Some-7B-Q4_K_M.gguf",
    "Some-7B-Q4_K_S.gguf",
    "Some-7B.Q8_0.gguf",
    "mmproj-Some-7B-Q8_0.gguf",
    "Q6_K/Some-7B-Q6_K-00001-of-00002.gguf",
    "Q6_K/Some-7B-Q6_K-00002-of-00002.gguf",
    "bf16/Some-7B.gguf",
]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("Some-7B-Q4_K_M.gguf", "Some-7B-Q4_K_M.gguf"),
        ("Q6_K/Some-7B-Q6_K-00002-of-00002.gguf", "Q6_K/Some-7B-Q6_K-00001-of-00002.gguf"),
        ("Q4_K_M", "Some-7B-Q4_K_M.gguf"),
        ("q8_0", "Some-7B.Q8_0.gguf"),
        ("Q6_K", "Q6_K/Some-7B-Q6_K-00001-of-00002.gguf"),
        ("BF16", "bf16/Some-7B.gguf"),
    ],
)
def test_a_file_of_a_repository(wanted: str, expected: str) -> None:
    assert choose(FILES, wanted, "o/r") == expected


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("Q4_K", r"'o/r' fits no file of the repository: Q6_K/Some.*-00001-of-00002\.gguf, Some-7B-Q4_K_M\.gguf, "),
        ("absent.gguf", r"'o/r' fits no file of the repository: "),
        ("7B", r"'o/r' fits 5 files of the repository: "),
    ],
)
def test_a_file_that_is_not_clear(wanted: str, sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence) as caught:
        choose(FILES, wanted, "o/r")
    assert "mmproj" not in str(caught.value)


def test_a_repository_without_such_files() -> None:
    with pytest.raises(BadModel, match=r"fits no file of the repository: it holds no \.gguf files"):
        choose(["model.safetensors"], "Q4_0", "o/r:Q4_0")


def test_ids_that_name_a_file() -> None:
    assert is_gguf_id("owner/name:Q4_K_M")
    for other in ("owner/name", "owner/name:", "name:Q4_K_M", "/a/b:c", "./a:b", "https://host/owner/name"):
        assert not is_gguf_id(other)


def test_a_model_of_the_hub_is_found_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network, and only the files that are named."""
    from huggingface_hub import constants

    home = tmp_path / "hub"
    snapshot = home / "models--owner--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (home / "models--owner--name" / "refs").mkdir()
    (home / "models--owner--name" / "refs" / "main").write_text("0123")
    for name in ("a-Q4_0.gguf", "a-Q8_0.gguf"):
        tiny_gguf.write(snapshot / name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    config = EngineConfig(model="owner/name:q8_0", cache_dir=str(tmp_path / "cache"))
    directory, model_id = locate(config, lambda *_: None)
    assert Path(read_manifest(directory).files[0].path).name == "a-Q8_0.gguf"
    assert model_id == "owner/name:q8_0"
    with pytest.raises(
        BadModel, match=r"'owner/other:Q4_0' could not be downloaded \(\w+\); give HF_MODEL_ID the path"
    ):
        locate(EngineConfig(model="owner/other:Q4_0", cache_dir=str(tmp_path)), lambda *_: None)


def test_a_directory_that_holds_one_file(whole: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    parts = split(whole, directory)
    (directory / "mmproj.gguf").write_bytes(b"")
    assert gguf_in(directory) == parts[0]
    made, model_id = locate(EngineConfig(model=str(directory), cache_dir=str(tmp_path / "cache")), lambda *_: None)
    assert [file.path for file in read_manifest(made).files] == list(map(str, parts))
    assert model_id == str(directory)
    whole.rename(directory / whole.name)
    with pytest.raises(BadModel, match=r"holds several models; give HF_MODEL_ID one of m-00001-of-00003\.gguf, whole"):
        gguf_in(directory)
    (directory / "model.safetensors").write_bytes(b"")
    assert gguf_in(directory) is None


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["Llama-3.2-1B-Instruct-Q8_0.gguf", "Llama-3.2-1B-Instruct-IQ4_XS.gguf"], ["IQ4_XS", "Q8_0"]),
        (["m.Q4_K_M.gguf", "m.f16.gguf"], ["Q4_K_M", "f16"]),
        (["m-UD-Q4_K_XL.gguf", "m-Q4_K_XL.gguf", "mmproj-F16.gguf"], ["UD-Q4_K_XL", "m-Q4_K_XL.gguf"]),
        (["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"], ["BF16"]),
        (["m-mxfp4.gguf", "m-TQ2_0.gguf", "m-Q3_K_S.gguf"], ["Q3_K_S", "TQ2_0", "mxfp4"]),
        (["a-Q4_0.gguf", "b-Q4_0.gguf", "c.gguf"], ["a-Q4_0.gguf", "b-Q4_0.gguf", "c.gguf"]),
        (["model.safetensors"], []),
    ],
)
def test_the_ids_of_a_repository_lead_to_one_file_each(names: list[str], wanted: list[str]) -> None:
    found = gguf_ids(names, "org/m")
    assert sorted(found) == sorted(f"org/m:{each}" for each in wanted)
    assert all(is_gguf_id(each) for each in found)
    assert len({choose(names, each.partition(":")[2], each) for each in found}) == len(found)
