"""The weights of files that llama.cpp has quantised: its numbers under the model's names, from the file itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from handler.formats.gguf.manifest import MANIFEST, check_sources, read_manifest
from handler.formats.gguf.reader import GgufFormat, open_gguf
from handler.linears.quantised_weight import QuantisedWeight
from handler.model.gguf_model import converted
from handler.seam.errors import BadModel
from tests.support import tiny_gguf

FORMATS = Path(__file__).resolve().parents[3] / "data" / "formats"
WRITTEN = sorted(path.parent.name for path in FORMATS.glob("*/model.gguf"))


@pytest.fixture
def open_file(tmp_path: Path) -> Callable[[Path], GgufFormat]:
    return lambda path: open_gguf(converted(path, tmp_path / "cache", lambda *_: None))


def dense(found: QuantisedWeight | torch.Tensor) -> torch.Tensor:
    return found.dequantise(torch.float32) if isinstance(found, QuantisedWeight) else found.float()


@pytest.mark.parametrize("name", WRITTEN)
def test_a_reader_gives_the_rows_of_llama_cpp(name: str, open_file: Callable[[Path], GgufFormat]) -> None:
    expected = load_file(FORMATS / name / "expected.safetensors")
    reader = open_file(FORMATS / name / "model.gguf")
    assert "" not in reader.sources(), "every tensor has a place"
    for weight, rows in {key.removeprefix("rows."): rows for key, rows in expected.items() if "rows." in key}.items():
        found, head = reader.read(weight), reader.head(weight)
        torch.testing.assert_close(dense(found)[..., : rows.shape[-2], :], rows, rtol=1e-6, atol=0)
        assert (head is not None) == isinstance(found, QuantisedWeight)
        if head is not None and isinstance(found, QuantisedWeight):
            assert (head.shape, head.form) == (tuple(found.shape), found.form)
            for part in (slice(0, 3), slice(-4, None)):
                assert torch.equal(dense(reader.outputs(weight, part)), dense(found.rows(part)))


def test_the_file_is_the_one_of_transformers(tmp_path: Path, open_file: Callable[[Path], GgufFormat]) -> None:
    """Query and key too, whose rows the format orders otherwise."""
    path = tiny_gguf.write(tmp_path / "a.gguf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    reader, expected = open_file(path), model.state_dict()
    assert reader.sources().keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(dense(reader.read(name)), weight), name


def test_a_converted_file_leaves_its_weights_where_they_are(tmp_path: Path) -> None:
    made = converted(FORMATS / WRITTEN[0] / "model.gguf", tmp_path, lambda *_: None)
    assert not list(made.rglob("*.safetensors"))
    assert Path(read_manifest(made).files[0].path) == FORMATS / WRITTEN[0] / "model.gguf"
    check_sources(made)


def test_a_file_that_is_gone_or_another_one_ends_the_start(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "a.gguf")
    made = converted(path, tmp_path / "cache", lambda *_: None)
    os.utime(path, (1, 1))
    with pytest.raises(BadModel, match=r"was made from .*a\.gguf, which has changed; give HF_MODEL_ID the \.gguf file"):
        check_sources(made)
    path.unlink()
    with pytest.raises(BadModel, match=r"was made from .*a\.gguf, which is gone; give HF_MODEL_ID the \.gguf file"):
        check_sources(made)
    (made / MANIFEST).write_text("{")
    with pytest.raises(BadModel, match=r"gguf\.json cannot be read: "):
        check_sources(made)


def test_a_file_that_becomes_shorter_is_one_sentence(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "a.gguf")
    made = converted(path, tmp_path / "cache", lambda *_: None)
    reader = open_gguf(made)
    path.write_bytes(path.read_bytes()[:-5000])
    last = max(read_manifest(made).tensors.items(), key=lambda each: each[1].offset)[0]
    (name,) = [weight for weight, tensors in reader.sources().items() if last in tensors]
    with pytest.raises(BadModel, match=r"a\.gguf has become shorter since it was converted"):
        reader.read(name)


def test_tensors_of_no_weight_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    path = tiny_gguf.write(tmp_path / "a.gguf", lambda tensors: tensors.update(more))
    converted(path, tmp_path / "cache", lambda *_: None)
    assert "a.gguf: 1 weights are not used, the first is blk.0.attn_sinks.weight" in caplog.text
