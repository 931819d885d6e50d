"""An index of shards as transformers reads it, which asks for a `metadata` that no weight needs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handler.model.location import read_json

_INDEX = "model.safetensors.index.json"


@contextmanager
def complete_index(directory: Path) -> Iterator[Path]:
    """`directory`, or for a time one of links to its files and an index with `metadata`. Raises OSError, BadModel."""
    index = read_json(directory / _INDEX) if (directory / _INDEX).is_file() else None
    if index is None or isinstance(index.get("metadata"), dict):
        yield directory
        return
    with tempfile.TemporaryDirectory() as scratch:
        linked = Path(scratch)
        for path in directory.iterdir():
            if path.name != _INDEX:
                (linked / path.name).symlink_to(path.resolve())
        (linked / _INDEX).write_text(json.dumps(index | {"metadata": {}}))
        yield linked
