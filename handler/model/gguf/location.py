"""Which .gguf files a model is: one, or all parts of a split one.

Parts are named NAME-00001-of-00003.gguf, as llama.cpp's gguf-split writes and finds them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handler.seam.errors import BadModel

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def part_names(name: str) -> list[str]:
    """The names of all parts of the split file that `name` is a part of, in order; `name` alone if it is none."""
    found = _PART.fullmatch(name)
    if found is None:
        return [name]
    count = int(found["count"])
    return [f"{found['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def parts_of(path: Path) -> list[Path]:
    """The files beside `path` that it is split into, in order. Raises BadModel if one is missing."""
    parts = [path.with_name(name) for name in part_names(path.name)]
    for part in parts:
        if not part.is_file():
            raise BadModel(f"{path.parent} lacks {part.name}, one of the {len(parts)} files of the model")
    if not parts:
        raise BadModel(f"{path.name} is named as a part of no files")
    return parts


def check_split(parts: Sequence[Path], readers: Sequence[Any]) -> None:
    """Raise BadModel unless the opened `gguf.GGUFReader`s are all parts of one file, in order.

    Each part says its number and theirs, and how many tensors they hold together.
    """
    num_tensors = sum(len(reader.tensors) for reader in readers)
    for number, (part, reader) in enumerate(zip(parts, readers, strict=True)):
        count = _said(reader, "split.count", 1) or 1
        if count != len(parts) or _said(reader, "split.no", number) != number:
            raise BadModel(
                f"{part} is named as file {number + 1} of {len(parts)}, and says that it is number "
                f"{_said(reader, 'split.no', 0) + 1} of {count}; give it the name that gguf-split did"
            )
        if _said(reader, "split.tensors.count", num_tensors) != num_tensors:
            raise BadModel(f"{part} and its {len(parts) - 1} other parts do not belong together")


def _said(reader: Any, key: str, default: int) -> int:
    field = reader.fields.get(key)
    return default if field is None else int(field.contents())
