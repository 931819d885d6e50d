"""The stage that converts the bundled model copies what `handler.prepare` imports and nothing else of the code.

A module too few and the image is not built; one too many and an edit of it makes the model's layer anew.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tools.image_check.dockerfile import find, read

ROOT = Path(__file__).resolve().parents[2]


def imported(module: PurePosixPath) -> Iterator[PurePosixPath]:
    """Files of `handler` that a file of it names, in functions too."""
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        else:
            continue
        for name in names:
            for file in (
                PurePosixPath(*name.split(".")).with_suffix(".py"),
                PurePosixPath(*name.split("."), "__init__.py"),
            ):
                if name.startswith("handler") and (ROOT / file).is_file():
                    yield file


def closure(start: PurePosixPath) -> set[str]:
    """`start`, all that it imports, and the packages that those lie in."""
    waiting, found = [start], set[PurePosixPath]()
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            packages = [parent / "__init__.py" for parent in file.parents if str(parent) != "."]
            waiting += [*imported(file), *packages]
    return {str(file) for file in found}


def test_what_is_copied_is_what_is_imported() -> None:
    stage = find(read(ROOT / "Dockerfile"), "model")
    assert stage is not None
    placed = []
    for instruction in stage.instructions:
        if instruction.name == "COPY":
            _, sources, place = instruction.copied()
            placed += [str(PurePosixPath(place, PurePosixPath(source).name)) for source in sources]
    assert sorted(placed) == sorted(closure(PurePosixPath("handler/prepare.py")))
