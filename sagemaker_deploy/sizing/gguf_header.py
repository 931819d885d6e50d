"""The sizes in a GGUF file's header. Own code: the `gguf` package needs numpy and maps the whole file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from model_memory.key_bytes import SCALE_BYTES
from model_memory.weight_counts import WeightCounts
from sagemaker_deploy.errors import PreflightError, SpecError
from sagemaker_deploy.sizing.model_shape import ModelShape

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LIMIT = 2**27  # bytes of a string, entries of a list: more is a damaged file
_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"
# gguf-split's name of a part.
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")
# ggml_type (ggml.h) of weights.
KINDS = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"), 6)),
    **dict(enumerate(("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS"), 16)),
    28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Tensor:
    """`shape` has the inputs last; `kind` is ggml's type, "" for one that is not known here."""

    kind: str
    shape: tuple[int, ...]


def shape_from_gguf(path: Path) -> ModelShape:
    """Return the sizes of the model in a GGUF file, or in all the parts of a split one of which this is one.

    Raises `PreflightError` if a header cannot be read, `SpecError` if it lacks a size.
    """
    parts = _parts(path)
    headers = [_header(part) for part in parts]
    tensors = {name: each for _, found in headers for name, each in found.items()}
    params = {name: math.prod(each.shape) for name, each in tensors.items()}
    values = _of_architecture(headers[0][0])
    try:
        layers = int(values["block_count"])
        kv_bytes, in_8_bits = (_kv_bytes_per_token(values, layers, itemsize) for itemsize in (2, 1))
    except (KeyError, TypeError, ZeroDivisionError) as exc:
        raise SpecError(f"{path} does not define {exc}") from exc
    embeddings, output = params.get(_EMBEDDINGS, 0), params.get(_OUTPUT, 0)
    experts = sum(size for name, size in params.items() if "_exps." in name)
    linears = sum(params.values()) - embeddings - experts - output
    counts = WeightCounts(linears, experts, embeddings, output=output)
    context, size = int(values.get("context_length") or 0), sum(part.stat().st_size for part in parts)
    return ModelShape(
        *(counts, kv_bytes, context, "bfloat16"),
        num_layers=layers,
        file_bytes=size,
        tensors=tensors,
        kv_bytes_in_8_bits=in_8_bits,
    )


def _parts(path: Path) -> list[Path]:
    """The files of the model, in order."""
    found = _PART.fullmatch(path.name)
    if found is None:
        return [path]
    stem, count = found.groups()
    return [path.with_name(f"{stem}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)]


def _header(path: Path) -> tuple[dict[str, Any], dict[str, _Tensor]]:
    try:
        with path.open("rb") as file:
            return _read(file)
    except (OSError, ValueError, struct.error, KeyError) as exc:
        raise PreflightError(f"the header of {path} cannot be read: {exc}") from exc


def _of_architecture(metadata: dict[str, Any]) -> dict[str, Any]:
    """The entries of the model's own architecture, without its name before them."""
    prefix = f"{metadata.get('general.architecture', '')}."
    return {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}


def _kv_bytes_per_token(values: dict[str, Any], layers: int, itemsize: int) -> int:
    """Keys and values, those of one byte with scales; some architectures give the KV heads layer by layer."""
    heads = values["attention.head_count"]
    if isinstance(heads, list):
        heads = max(heads)
    kv_heads = values.get("attention.head_count_kv", heads)
    total = sum(kv_heads) if isinstance(kv_heads, list) else kv_heads * layers
    default = values["embedding_length"] // heads
    scales = 2 * SCALE_BYTES if itemsize == 1 else 0
    width = values.get("attention.key_length", default) + values.get("attention.value_length", default)
    return int(total * (itemsize * width + scales))


def _read(file: BinaryIO) -> tuple[dict[str, Any], dict[str, _Tensor]]:
    """(metadata, tensors by name)."""
    if file.read(4) != b"GGUF":
        raise ValueError("it is no GGUF file")
    version, num_tensors, num_entries = _unpack(file, "IQQ")
    if version not in (2, 3):
        raise ValueError(f"version {version} is unknown")
    metadata = {}
    for _ in range(_checked(num_entries)):
        key = _string(file)
        metadata[key] = _value(file, *_unpack(file, "I"))
    tensors = {}
    for _ in range(_checked(num_tensors)):
        name = _string(file)
        (dimensions,) = _unpack(file, "I")
        shape = _unpack(file, f"{_checked(dimensions)}Q")
        kind, _offset = _unpack(file, "IQ")
        tensors[name] = _Tensor(KINDS.get(kind, ""), shape[::-1])
    return metadata, tensors


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _unpack(file, _SCALARS[kind])[0]
    inner, count = _unpack(file, "IQ")
    return [_value(file, inner) for _ in range(_checked(count))]


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    return file.read(_checked(length)).decode("utf-8", "replace")


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    size = struct.calcsize("<" + form)
    return struct.unpack("<" + form, file.read(size))


def _checked(count: int) -> int:
    if count > _LIMIT:
        raise ValueError(f"a length of {count} is damaged")
    return count
