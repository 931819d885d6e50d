"""The files that a COPY from the build context sees: all that .dockerignore does not exclude.

Source: https://docs.docker.com/build/concepts/context/#dockerignore-files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath


def read_rules(path: Path) -> list[tuple[bool, re.Pattern[str]]]:
    """(keep, pattern) for each line of .dockerignore, in order."""
    lines = [line.strip() for line in path.read_text().splitlines()] if path.is_file() else []
    return [_rule(line) for line in lines if line and not line.startswith("#")]


def kept(name: PurePosixPath, rules: Sequence[tuple[bool, re.Pattern[str]]]) -> bool:
    """Whether the file at `name`, relative to the context, reaches the builder. The last matching line wins."""
    answer = True
    # A rule for a directory applies to everything below it.
    names = [str(name), *(str(parent) for parent in name.parents if str(parent) != ".")]
    for keep, pattern in rules:
        if any(pattern.fullmatch(candidate) for candidate in names):
            answer = keep
    return answer


def matching(context: Path, source: str) -> list[tuple[Path, PurePosixPath]]:
    """The files that COPY `source` copies: (file, path below the destination). Empty if nothing matches.

    For a directory, its contents; for a file or a wildcard, the files under their own names.
    """
    rules = read_rules(context / ".dockerignore")
    found: list[tuple[Path, PurePosixPath]] = []
    for start in sorted(context.glob(source.strip("/"))):
        files = [start] if start.is_file() else sorted(path for path in start.rglob("*") if path.is_file())
        root = start.parent if start.is_file() else start
        for file in files:
            if kept(PurePosixPath(file.relative_to(context)), rules):
                found.append((file, PurePosixPath(file.relative_to(root))))
    return found


def _rule(line: str) -> tuple[bool, re.Pattern[str]]:
    keep = line.startswith("!")
    pattern = line.removeprefix("!").strip("/")
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    wild = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    return keep, re.compile("".join(wild.get(part, re.escape(part)) for part in parts))
