"""The stage that converts the bundled model copies what `handler.prepare` imports, and no folder besides.

A needed module that is missing breaks the build. A folder that is not needed rebuilds the layer at each of its edits.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tools.image_check.dockerfile import find, read

ROOT = Path(__file__).resolve().parents[2]


def imported(module: PurePosixPath) -> Iterator[PurePosixPath]:
    """Files of `handler` and `model_memory` that `module` imports, at module level or in functions."""
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
                if name.startswith(("handler", "model_memory")) and (ROOT / file).is_file():
                    yield file


def closure(start: PurePosixPath) -> set[str]:
    """`start`, everything that it imports directly or indirectly, and their packages' `__init__.py`."""
    waiting, found = [start], set[PurePosixPath]()
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            packages = [parent / "__init__.py" for parent in file.parents if str(parent) != "."]
            waiting += [*imported(file), *packages]
    return {str(file) for file in found}


def copied() -> set[PurePosixPath]:
    """Files and folders of the context that the stage copies; each keeps its path."""
    stage = find(read(ROOT / "Dockerfile"), "model")
    assert stage is not None
    found = set()
    for instruction in stage.instructions:
        if instruction.name == "COPY":
            _, sources, place = instruction.copied()
            for source in map(PurePosixPath, sources):
                is_folder = (ROOT / source).is_dir()
                assert (PurePosixPath(place) if is_folder else PurePosixPath(place, source.name)) == source
                found.add(source)
    return found


def covering(file: PurePosixPath, sources: set[PurePosixPath]) -> set[PurePosixPath]:
    """The sources that bring `file`."""
    return sources & {file, *file.parents}


def test_everything_that_is_imported_is_copied_once() -> None:
    sources = copied()
    for file in closure(PurePosixPath("handler/prepare.py")):
        assert len(covering(PurePosixPath(file), sources)) == 1, file


def test_nothing_is_copied_of_which_nothing_is_imported() -> None:
    sources = copied()
    needed = {PurePosixPath(file) for file in closure(PurePosixPath("handler/prepare.py"))}
    assert sources == {source for file in needed for source in covering(file, sources)}
