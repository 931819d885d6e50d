"""An adapter as SageMaker wants it: a tar.gz with the files at its root, checked before anything is sent."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sagemaker_deploy.errors import SpecError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What of a directory goes into the archive: the container reads nothing else.
_FILES = (CONFIG, WEIGHTS)
# Fields of peft that the container refuses at registration, by name (docs/adapter-files.md).
REFUSED = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "megatron_config"),
    *("monteclora_config", "use_bdlora", "use_dora", "use_qalora"),
)


def adapter_archive(source: Path) -> bytes:
    """The archive of a directory that peft wrote, or of a .tar.gz file as it is. Equal files give equal bytes.

    Raises `SpecError` for what the container would refuse as far as its files say.
    """
    if source.is_dir():
        return _packed(source)
    if not source.is_file():
        raise SpecError(f"{source} is neither a directory nor a .tar.gz file")
    content = source.read_bytes()
    _check_archive(content, source)
    return content


def _packed(directory: Path) -> bytes:
    for name in _FILES:
        if not (directory / name).is_file():
            raise SpecError(f"{directory} has no {name}", remedy=_remedy(directory))
    _check_config((directory / CONFIG).read_bytes(), directory)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for name in _FILES:
            content = (directory / name).read_bytes()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _remedy(directory: Path) -> str:
    if (directory / "adapter_model.bin").is_file():
        return "save it with peft's save_pretrained, which writes safetensors; pickled weights are never loaded"
    return "give the directory that peft's save_pretrained wrote"


def _check_archive(content: bytes, source: Path) -> None:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            names = [member.name.removeprefix("./") for member in archive.getmembers() if member.isfile()]
            missing = [name for name in _FILES if name not in names]
            if not missing:
                found = next(each for each in archive.getmembers() if each.name.removeprefix("./") == CONFIG)
                file = archive.extractfile(found)
                _check_config(file.read() if file else b"", source)
                return
    except (tarfile.TarError, OSError, EOFError) as exc:
        raise SpecError(f"{source} is not a .tar.gz file: {exc}") from exc
    below = next((name for name in names if name.endswith(f"/{missing[0]}")), "")
    remedy = (
        f"it has {below}; pack the files themselves, not their directory" if below else "see peft's save_pretrained"
    )
    raise SpecError(f"{source} has no {missing[0]} at its root", remedy=remedy)


def _check_config(content: bytes, source: Path) -> None:
    try:
        config: Any = json.loads(content)
    except ValueError as exc:
        raise SpecError(f"{source}: {CONFIG} is not JSON") from exc
    kind = config.get("peft_type") if isinstance(config, Mapping) else None
    if kind != "LORA":
        raise SpecError(f"{source}: {CONFIG} must be of peft_type LORA, got {kind!r}")
    for name in REFUSED:
        if config.get(name):
            raise SpecError(f"{source}: {name} is set, and the container loads no such adapter")
