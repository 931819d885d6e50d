"""What the one --model takes: a Hub id, a directory or GGUF file, S3; and the sizes that a name or a header tells."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from sagemaker_deploy.errors import PreflightError, SpecError
from sagemaker_deploy.request.model_reference import ModelKind, ModelReference, parse_model
from sagemaker_deploy.sizing.gguf_header import shape_from_gguf
from sagemaker_deploy.sizing.name_shape import shape_from_name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model, one with a GGUF file, one with two, and one without any."""
    monkeypatch.chdir(tmp_path)
    files = ["org/model/config.json", "one/a.gguf", "two/a.gguf", "two/b.gguf", "none/readme"]
    files += ["repo/config.json", "repo/a.gguf", "both/config.json", "both/a.gguf", "both/a.safetensors"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind", "location", "file", "name"),
    [
        ("Qwen/Qwen3-8B", ModelKind.HUB, "Qwen/Qwen3-8B", "", "qwen3-8b"),
        ("org/Qwen3-0.6B_x", ModelKind.HUB, "org/Qwen3-0.6B_x", "", "qwen3-0-6b-x"),
        ("org/" + "x" * 80, ModelKind.HUB, "org/" + "x" * 80, "", "x" * 50),
        ("s3://bucket/a/b", ModelKind.S3, "s3://bucket/a/b/", "", "b"),
        ("s3://bucket/a/b/", ModelKind.S3, "s3://bucket/a/b/", "", "b"),
        ("s3://bucket", ModelKind.S3, "s3://bucket/", "", "bucket"),
        ("s3://bucket/a/M-7B.Q4.gguf", ModelKind.S3, "s3://bucket/a/", "M-7B.Q4.gguf", "m-7b-q4"),
        ("org/model", ModelKind.LOCAL, "org/model", "", "model"),
        ("./org/model/", ModelKind.LOCAL, "org/model", "", "model"),
        ("one", ModelKind.LOCAL, "one", "a.gguf", "a"),
        ("two/b.gguf", ModelKind.LOCAL, "two", "b.gguf", "b"),
        ("repo", ModelKind.LOCAL, "repo", "a.gguf", "a"),
        ("both", ModelKind.LOCAL, "both", "", "both"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_model_is_a_hub_id_a_directory_or_in_s3(
    text: str, kind: ModelKind, location: str, file: str, name: str
) -> None:
    model = parse_model(text)
    assert model == ModelReference(kind, location, file)
    assert model.endpoint_name == name
    assert parse_model(model.text) == model


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("llm", "neither a directory here, nor s3"),
        ("gpt2", "organisation/name"),
        ("a/b/c", "neither"),
        ("org/na me", "neither"),
        ("org/a--b", "neither"),
        ("org/" + "x" * 93, "neither"),
        ("", "neither"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "is a web address; give its Hub id"),
        ("./missing", "does not exist here"),
        ("/opt/nothing", "does not exist here"),
        ("missing/x.gguf", "does not exist here"),
        ("none", "has neither a config.json nor a .gguf file"),
        ("two", "has 2 .gguf files; name one, such as two/a.gguf"),
        ("org/model/config.json", "is a file; give the directory"),
        ("s3:///key/", "must be s3://bucket/prefix/"),
        ("s3://b/model.tar.gz", "is an archive"),
        ("s3://b/m/model.safetensors", "is one file; give the prefix"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_is_no_model_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        parse_model(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen3-8B", 8),
        ("Qwen3-0.6B-Base", 0.6),
        ("Qwen2.5-7B-Instruct-1M", 7),
        ("Qwen3-30B-A3B", 30),
        ("Mixtral-8x22B-Instruct-v0.1", 176),
        ("Llama-3.3-70B-Instruct", 70),
        ("DeepSeek-R1-Distill-Qwen-32B", 32),
        ("stablelm-2-1_6b-chat", 1.6),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", 0.135),
        ("glm-4-9b-chat-1m", 9),
        ("Distill-70B-to-8B", 70),
        ("yarn-llama-2-7b-128k", 7),
        ("phi-4", None),
        ("gemma-3n-E4B-it", None),
        ("Llama-4-Scout-17B-16E-Instruct", None),
        ("DeepSeek-V3", None),
        ("model-1m", None),
        ("bge-m3", None),
        ("8bit-model", None),
        ("", None),
    ],
)
def test_a_name_tells_parameters(name: str, billions: float | None) -> None:
    told = shape_from_name(name)
    assert (told and told.shape.num_params / 1e9) == (pytest.approx(billions) if billions else None)
    assert told is None or f"{billions:g} billion parameters by the name" in told.text


@pytest.mark.parametrize(
    ("name", "packed_gb"),
    [
        ("Qwen3-8B-AWQ", 5.2),
        ("Qwen3-8B-FP8", 8.4),
        ("Llama-8B-bnb-4bit", 5.2),
        ("Llama-8B-w8a8", 8.4),
        ("Llama-8B-GPTQ-Int8", 8.4),
        ("Qwen3-8B", None),
    ],
)
def test_a_name_tells_the_stored_form(name: str, packed_gb: float | None) -> None:
    told = shape_from_name(name)
    assert told is not None
    assert told.shape.stored_bytes == (pytest.approx(packed_gb * 1e9) if packed_gb else None)


def gguf(metadata: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> bytes:
    """A GGUF file without data."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def entry(value: Any) -> bytes:
        if isinstance(value, str):
            return struct.pack("<I", 8) + text(value)
        if isinstance(value, list) and value and isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        if isinstance(value, list):
            return struct.pack("<IIQ", 9, 4, len(value)) + struct.pack(f"<{len(value)}I", *value)
        return struct.pack("<II", 4, value)

    body = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    body += b"".join(text(key) + entry(value) for key, value in metadata.items())
    for name, dimensions in tensors.items():
        body += text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        body += struct.pack("<IQ", 2, 0)
    return body


LLAMA = {
    "general.architecture": "llama",
    "tokenizer.ggml.tokens": ["a", "b"],
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 512,
}
TENSORS = {"token_embd.weight": (64, 10), "blk.0.ffn_up.weight": (64, 100), "output_norm.weight": (64,)}


def test_a_gguf_header_tells_the_sizes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(LLAMA, TENSORS) + b"x" * 100)
    shape = shape_from_gguf(path)
    assert (shape.num_params, shape.counts.embeddings) == (640 + 6400 + 64, 640)
    assert shape.kv_bytes_per_token == 2 * 2 * 2 * 2 * 16
    assert (shape.max_context, shape.num_layers) == (512, 2)
    assert shape.checkpoint_gb * 1e9 == path.stat().st_size
    path.write_bytes(gguf(LLAMA | {"llama.attention.head_count_kv": [2, 1]}, TENSORS))
    assert shape_from_gguf(path).kv_bytes_per_token == 2 * 2 * 3 * 16


def test_a_split_file_is_weighed_whole(tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
    first.write_bytes(gguf(LLAMA, {"token_embd.weight": (64, 10)}))
    with pytest.raises(PreflightError, match=r"the header of .*m-00002-of-00002\.gguf cannot be read: .*No such file"):
        shape_from_gguf(first)
    second.write_bytes(gguf({}, {"blk.0.ffn_up.weight": (64, 100)}))
    for part in (first, second):
        shape = shape_from_gguf(part)
        assert shape.num_params == 640 + 6400
        assert shape.file_bytes == first.stat().st_size + second.stat().st_size


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no GGUF file"),
        (b"GGUF", "cannot be read"),
        (gguf(LLAMA, TENSORS)[:100], "cannot be read"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9 is unknown"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "is damaged"),
        (gguf({}, {}), "does not define 'block_count'"),
    ],
)
def test_a_damaged_header_is_refused_in_a_sentence(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises((PreflightError, SpecError), match=says):
        shape_from_gguf(path)
