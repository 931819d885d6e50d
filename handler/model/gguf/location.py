"""Which .gguf files a model is: one, or all parts of a split one.

Parts are named NAME-00001-of-00003.gguf, as llama.cpp's gguf-split writes and finds them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from handler.model.hub_commit import cached, listed
from handler.seam.errors import BadModel

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

# How files are named after the type of most of their tensors.
_TYPE = re.compile(r"[-._]((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|MXFP4\w*|BF16|F16|F32))(?=[-.])", re.IGNORECASE)


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


def gguf_in(directory: Path) -> Path | None:
    """The model's .gguf file in a directory without safetensors, its first part if it is split; None if there is none.

    Raises BadModel for files of several models.
    """
    if any(directory.glob("*.safetensors")):
        return None
    found = _models(path.name for path in directory.glob("*.gguf"))
    if len(found) > 1:
        raise BadModel(f"{directory} holds several models; give HF_MODEL_ID one of {', '.join(found)}")
    return directory / found[0] if found else None


def is_gguf_id(model: str) -> bool:
    """True for `owner/name:file.gguf` and `owner/name:Q4_K_M`."""
    repository, colon, wanted = model.partition(":")
    return bool(colon and wanted) and repository.count("/") == 1 and not repository.startswith(("/", "."))


def fetch_gguf(model: str, revision: str | None, progress: Callable[[int, str], None]) -> Path:
    """The first .gguf file of a hub model as `is_gguf_id` knows it, in the hub's cache with its other parts.

    No other file is fetched; without network the cache alone serves. Raises BadModel.
    """
    repository, _, wanted = model.partition(":")
    progress(0, f"downloading {model}")
    try:
        return _fetched(model, repository, revision, wanted)
    except BadModel:
        raise
    except Exception as exc:  # the hub's client lets errors of its HTTP library through
        raise BadModel(
            f"the hub model {model!r} could not be downloaded ({type(exc).__name__}); give HF_MODEL_ID the path of a "
            ".gguf file, check the network, or set HF_TOKEN if the model is gated"
        ) from exc


def _fetched(model: str, repository: str, revision: str | None, wanted: str) -> Path:
    commit = listed(repository, revision)
    if commit is None:
        directory = cached(repository, revision)
        names = (str(path.relative_to(directory)) for path in directory.rglob("*.gguf"))
        return directory / choose(names, wanted, model)
    name = choose(commit.names, wanted, model)
    directory = commit.fetch(part_names(name))
    commit.keep(directory)
    return directory / name


def choose(names: Iterable[str], wanted: str, model: str) -> str:
    """The path of the file that `wanted` names: its path, or its type as a part of its name, in any case.

    Raises BadModel that lists the files, unless there is exactly one. `model` is what messages call it.
    """
    models = _models(names)
    if wanted.endswith(".gguf"):
        first = (part_names(wanted) or [wanted])[0]
        found = [name for name in models if name == first]
    else:
        found = _fitting(models, wanted)
    if len(found) == 1:
        return found[0]
    reason = f"fits {len(found)} files of the repository" if found else "fits no file of the repository"
    listed = ", ".join(found or models) or "it holds no .gguf files"
    raise BadModel(f"HF_MODEL_ID {model!r} {reason}: {listed}")


def gguf_ids(names: Iterable[str], repository: str) -> list[str]:
    """The id of each model among the files of a hub repository: by its type if that names no other file as well."""
    models = _models(names)
    return sorted(f"{repository}:{_shortest(name, models)}" for name in models)


def _shortest(name: str, models: list[str]) -> str:
    found = _TYPE.search(name.rpartition("/")[2])
    return found[1] if found and len(_fitting(models, found[1])) == 1 else name


def _fitting(models: list[str], wanted: str) -> list[str]:
    """Those that have the type `wanted` as a part of their name."""
    whole = re.compile(rf"(?:.*[-._/])?{re.escape(wanted)}(?:[-./].*)?", re.IGNORECASE)
    return [name for name in models if whole.fullmatch(name.removesuffix(".gguf"))]


def _models(names: Iterable[str]) -> list[str]:
    """The .gguf files that hold a language model, of a split one the first part."""
    found = {(part_names(name) or [name])[0] for name in names if name.endswith(".gguf")}
    return sorted(name for name in found if not name.rpartition("/")[2].lower().startswith("mmproj"))
