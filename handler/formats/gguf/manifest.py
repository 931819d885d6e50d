"""`gguf.json` of a converted checkpoint: the .gguf files that hold its weights, and which tensor is which weight.

Whoever looks for a model reads it, so it imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from handler.seam.errors import BadModel

MANIFEST = "gguf.json"


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A .gguf file as it was converted. Whole seconds: image layers store no fractions."""

    path: str
    size: int
    mtime_s: int

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        """The file as it is now. Raises OSError."""
        stat = path.stat()
        return cls(path=str(path.resolve()), size=stat.st_size, mtime_s=int(stat.st_mtime))


class SourceTensor(msgspec.Struct, frozen=True, kw_only=True):
    """`num_bytes` from `offset` on in the file number `file`; `shape` has the inputs last, `kind` is ggml's type."""

    file: int
    kind: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`weights` has the tensors that make up each weight of the model; "" has those that it has no use for.

    Those of `untouched` are one tensor as it is; of the others, `architecture` and `config` say what is done to them
    (`processing.py`).
    """

    files: tuple[SourceFile, ...]
    architecture: str
    config: dict[str, Any]
    tensors: dict[str, SourceTensor]
    weights: dict[str, tuple[str, ...]]
    untouched: frozenset[str]


def is_converted(directory: Path) -> bool:
    """True for a checkpoint whose weights lie in .gguf files."""
    return (directory / MANIFEST).is_file()


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a converted checkpoint. Raises BadModel if it is damaged."""
    try:
        return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as exc:
        raise BadModel(f"{directory / MANIFEST} cannot be read: {exc}; delete {directory}") from exc


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Raises OSError."""
    (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def check_sources(directory: Path) -> None:
    """Raise BadModel if a .gguf file of the converted checkpoint in `directory` is gone or another one."""
    for file in read_manifest(directory).files:
        path = Path(file.path)
        if not path.is_file():
            raise BadModel(f"{directory} was made from {path}, which is gone; give HF_MODEL_ID the .gguf file")
        if SourceFile.of(path) != file:
            raise BadModel(f"{directory} was made from {path}, which has changed; give HF_MODEL_ID the .gguf file")
