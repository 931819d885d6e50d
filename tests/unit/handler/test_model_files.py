"""Damaged and missing weight files are named before anything is loaded."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from handler.formats.tensor_files import weight_files
from handler.model.location import check_files, locate
from handler.seam.config import EngineConfig
from handler.seam.errors import BadModel

Damage = Callable[[bytes], bytes]


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def beyond_the_end(raw: bytes) -> bytes:
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    name = next(key for key in header if key != "__metadata__")
    header[name]["data_offsets"] = [2**40, 2**40 + 4]
    edited = json.dumps(header).encode()
    return struct.pack("<Q", len(edited)) + edited + raw[8 + length :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda raw: raw[:200],
        lambda _: struct.pack("<Q", 2**40) + b"{}",
        lambda raw: raw[:8] + b"x" + raw[9:],
        lambda raw: raw[: len(raw) // 2],
        beyond_the_end,
    ],
    ids=["empty", "cut in the header", "endless header", "header not JSON", "cut in the data", "beyond the end"],
)
def test_damaged_weights(model: Path, damage: Damage) -> None:
    file = model / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadModel, match=r"model\.safetensors could not be loaded, it is damaged or cut short: "):
        check_files(model, trust_remote_code=False)


def test_a_missing_shard(model: Path) -> None:
    check_files(model, trust_remote_code=False)
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadModel, match=r"lacks model-00002-of-00002\.safetensors, .*\(1 missing\)"):
        check_files(model, trust_remote_code=False)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/model.safetensors", "a/../../b.safetensors"])
def test_an_index_that_leads_out_of_the_checkpoint(name: str, model: Path) -> None:
    (model / "model.safetensors").rename(model / "other.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(BadModel, match="which is not in the checkpoint"):
        check_files(model, trust_remote_code=False)


def test_an_index_beside_the_whole_model_is_not_read(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text("{}")
    check_files(model, trust_remote_code=False)
    assert [path.name for path in weight_files(model)] == ["model.safetensors"]


def test_a_manifest_of_gguf_files_counts_in_the_cache_alone(model: Path, tmp_path: Path) -> None:
    """It names files to read, wherever they are."""
    (model / "gguf.json").write_text("{}")
    config = EngineConfig(model=str(model), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(BadModel, match=r"gguf\.json is a file that this server writes into its cache alone; remove it"):
        locate(config, lambda *_: None)
