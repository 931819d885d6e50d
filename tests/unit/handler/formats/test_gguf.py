"""The weights of files that llama.cpp has quantised: its numbers under the model's names, from the file itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import gguf
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
            assert torch.equal(reader.dense(weight, torch.bfloat16), found.dequantise(torch.bfloat16))
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


def lfm2(path: Path) -> Path:
    """One convolution and one attention layer, whose matrices are Q8_0."""
    draw = np.random.default_rng(0)
    tokens = ["<s>", "</s>", *map(chr, range(33, 126)), "!!"]
    writer = gguf.GGUFWriter(path, "lfm2")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv([0, 1])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_shortconv_l_cache(3)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["! !"])
    for name, *shape in (
        ("token_embd", len(tokens), 32),
        ("token_embd_norm", 32),
        *((f"blk.{i}.{each}_norm", 32) for i in (0, 1) for each in ("attn", "ffn")),
        *((f"blk.{i}.ffn_{each}", 64, 32) for i in (0, 1) for each in ("gate", "up")),
        *((f"blk.{i}.ffn_down", 32, 64) for i in (0, 1)),
        *(("blk.0.shortconv.in_proj", 96, 32), ("blk.0.shortconv.out_proj", 32, 32), ("blk.0.shortconv.conv", 32, 3)),
        *((f"blk.1.attn_{each}", 32, 32) for each in ("q", "output")),
        *((f"blk.1.attn_{each}", 16, 32) for each in ("k", "v")),
        *((f"blk.1.attn_{each}_norm", 16) for each in ("q", "k")),
    ):
        kind = gguf.GGMLQuantizationType.Q8_0 if len(shape) == 2 and shape[1] % 32 == 0 else None
        values = draw.normal(0, 0.1, shape).astype(np.float32)
        data = values if kind is None else gguf.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_architecture_of_the_newer_table(tmp_path: Path, open_file: Callable[[Path], GgufFormat]) -> None:
    path = lfm2(tmp_path / "a.gguf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    reader, expected = open_file(path), model.state_dict()
    assert expected.keys() - reader.sources().keys() == {"lm_head.weight"}
    for name in reader.sources():
        found = reader.read(name)
        torch.testing.assert_close(dense(found), expected[name], rtol=1e-6, atol=1e-7)
        assert isinstance(found, QuantisedWeight) == (reader.head(name) is not None)


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
