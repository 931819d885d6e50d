"""The name of an installation, by all that decides what is in it."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_TEXTS = (".txt", ".in")


def digest(arguments: Sequence[str], base: Path, constraints: str, environ: Mapping[str, str]) -> str:
    """32 hexadecimal digits of the interpreter, pip's `arguments` and variables, `constraints` and the files they name.

    Files are named relative to `base`. Of text files the contents count, of others name, size and time.
    """
    parts = [sys.version, sysconfig.get_platform(), *arguments, constraints]
    parts += [
        f"{key}={environ[key]}" for key in sorted(environ) if key.startswith("PIP_") or key == "CA_REPOSITORY_ARN"
    ]
    parts += _named(" ".join(arguments), base, set())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _named(text: str, base: Path, seen: set[Path]) -> Iterator[str]:
    """What is at the paths in `text`, and at those in the text files there."""
    for word in re.split(r"[\s=]+", text):
        name = re.sub(r"^(-[rcef]|file:(//)?)", "", word)
        path = base / name
        # os.path: pathlib raises for a word too long to be a name.
        if not name or path in seen or path.parent == path or not os.path.exists(path):
            continue
        seen.add(path)
        if path.is_file() and path.suffix in _TEXTS:
            content = path.read_text(errors="replace")
            yield content
            yield from _named(content, path.parent, seen)
        else:
            yield from _state(path)


def _state(path: Path) -> Iterator[str]:
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        stat = file.lstat()
        yield f"{file} {stat.st_size} {stat.st_mtime_ns}"
