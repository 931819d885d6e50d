"""The engine's own copy of an adapter's files: they may vanish, or be written again, once the adapter is registered."""

from __future__ import annotations

import os
import shutil
import tempfile
from hashlib import blake2b
from pathlib import Path

from handler.adapters.location import FILES, is_inside

_END = 1 << 20
# Begins the name of a copy that is not whole, before the id of the process that makes it.
_SCRATCH = "new-"


def files_of(directory: Path) -> list[Path]:
    """The files of an adapter that are there; what is missing is for its reader to say.

    A link that leads out of `directory` counts as missing: see `is_inside`.
    """
    found = (directory / name for name in FILES)
    return [path for path in found if path.is_file() and is_inside(path, directory)]


def copy_files(source: Path, target: Path) -> Path:
    """Copy an adapter's files into the new directory `target`, whole or not at all. Returns the directory to read.

    That is `target` if another engine has made it already, and `source` if a file is missing there. Raises OSError.
    """
    if target.is_dir():
        return target
    files = files_of(source)
    if len(files) < len(FILES):
        return source
    target.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=target.parent))
    try:
        for path in files:
            shutil.copyfile(path, scratch / path.name)
        os.rename(scratch, target)
    except OSError:
        if not target.is_dir():  # another engine has made it meanwhile
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def is_under_way(folder: Path) -> bool:
    """Whether a process that lives is making this copy."""
    owner = folder.name.removeprefix(_SCRATCH).partition("-")[0]
    return folder.name.startswith(_SCRATCH) and owner.isdecimal() and Path("/proc", owner).exists()


def content_fingerprint(directory: Path) -> int:
    """A nonzero hash of the files' sizes, beginnings and ends, by which `Suspects` know an adapter.

    Training changes every number, so the ends tell two adapters apart; all of a file would take longer than to read it.
    Raises OSError.
    """
    digest = blake2b(digest_size=8)
    for path in files_of(directory):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            digest.update(file.read(_END))
            file.seek(max(0, size - _END))
            digest.update(file.read(_END))
    return int.from_bytes(digest.digest(), "little", signed=True) or 1
