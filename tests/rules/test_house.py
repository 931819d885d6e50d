"""`python -m tools.house`: the limits hold here, and what it says of a small checkout is right."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools.house.__main__ import all_circles, broken_limits, main, report
from tools.house.functions import functions
from tools.house.imports import Import, between_folders, circles, imports
from tools.house.source import Module, read

FILES = {
    "handler/__init__.py": '"""Engine."""\n',
    "handler/engine/__init__.py": "",
    "handler/engine/core.py": "from handler.model import loader\nfrom handler.model.loader import load\n",
    "handler/model/__init__.py": "",
    "handler/model/loader.py": "from . import files\nfrom .files import Name\ndef load(p: str) -> int:\n    return 1\n",
    "handler/model/files.py": "def f(self, a, *b):\n    from ..engine.core import x\n    import handler.model.loader\n",
    "tools/one.py": "import os\n",
}


def checkout(directory: Path, files: dict[str, str]) -> dict[str, Module]:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return read(directory)


def test_the_limits_hold_here(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--check"])
    assert (code, capsys.readouterr().out) == (0, "")


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    core, loader, files = "handler.engine.core", "handler.model.loader", "handler.model.files"
    found = imports(checkout(tmp_path, FILES))
    expected = {(core, loader, False), (loader, files, False), (files, core, True), (files, loader, True)}
    assert {(one.importer, one.imported, one.is_late) for one in found} == expected


def test_an_import_for_types_is_late(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tools import one\n"
    found = imports(checkout(tmp_path, {"tools/one.py": "", "tools/two.py": text}))
    assert found == {Import("tools.two", "tools.one", is_late=True)}


def test_circles_hidden_in_functions_are_found(tmp_path: Path) -> None:
    modules = checkout(tmp_path, FILES)
    assert all_circles(imports(modules), with_late=False) == []
    everything = ["handler.engine.core", "handler.model.files", "handler.model.loader"]
    assert all_circles(imports(modules), with_late=True) == [everything]
    assert list(broken_limits(modules)) == [f"modules import each other in a circle: {', '.join(everything)}"]


def test_circles_are_told_apart() -> None:
    assert circles({("a", "b"), ("b", "a"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "c")}) == [
        ["c", "d", "e"],
        ["a", "b"],
    ]
    assert circles({("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")}) == []


def test_ties_between_folders_are_pairs_of_modules(tmp_path: Path) -> None:
    modules = checkout(tmp_path, FILES)
    assert between_folders(imports(modules), modules) == {
        ("handler/engine", "handler/model"): 1,
        ("handler/model", "handler/engine"): 1,
    }


@pytest.mark.parametrize(("folder", "limit"), [("handler", 6), ("container", 10), ("handler/model", 16)])
def test_a_full_folder_is_a_fault(tmp_path: Path, folder: str, limit: int) -> None:
    files = {f"{folder}/m{number}.py": "" for number in range(limit)}
    assert list(broken_limits(checkout(tmp_path, files))) == []
    modules = checkout(tmp_path, {f"{folder}/one_more.py": ""})
    assert list(broken_limits(modules)) == [f"{folder}/ has {limit + 1} Python files; the limit is {limit}"]


def test_functions_are_measured_and_their_annotations_counted() -> None:
    text = (
        "class A:\n    def whole(self, a: int, *b: int, c: int = 0) -> None:\n        pass\n"
        "    def no_result(self):\n        pass\n"
        "async def half(a: int, *b) -> None:\n    '''Doc.'''\n\n    return None\n"
    )
    found = functions([Module("m", Path("m.py"), 9, ast.parse(text))])
    expected = [("half", 6, 4, False), ("no_result", 4, 2, False), ("whole", 2, 2, True)]
    assert sorted((one.name, one.line, one.num_lines, one.is_annotated) for one in found) == expected


def test_the_report_names_folders_circles_and_the_longest(tmp_path: Path) -> None:
    lines = list(report(checkout(tmp_path, FILES)))
    assert "    3      7  handler/model/" in lines
    assert "  handler/engine -> handler/model 1" in lines
    assert "circles at module level: 0" in lines
    assert "circles with imports inside functions and for types: 1" in lines
    assert "    3  handler/model/files.py:1 f" in lines


def test_a_folder_without_the_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds none of container, handler"):
        read(tmp_path)
