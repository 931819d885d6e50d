"""The scoreboard's page is what its record says, and what it refers to exists."""

from __future__ import annotations

import ast

from tools.scoreboard.page import PAGE, SUBJECTS, page
from tools.scoreboard.record import ROOT, read
from tools.scoreboard.rows import BY_NUMBER, ROWS


def test_the_page_is_made_of_the_record() -> None:
    assert PAGE.read_text() == page(read()), "run `python -m tools.scoreboard`"


def test_rows_are_numbered_and_their_tests_exist() -> None:
    assert [row.number for row in ROWS] == list(range(1, 42))
    assert not [name for row in ROWS for name in row.tests if not (ROOT / name).is_file()]


def test_every_row_has_one_subject() -> None:
    assert [number for first, last, _ in SUBJECTS for number in range(first, last + 1)] == sorted(BY_NUMBER)


def test_every_result_belongs_to_a_row() -> None:
    assert {found.row for found in read()} <= BY_NUMBER.keys()


def test_every_scenario_names_its_row_and_its_bug() -> None:
    for path in (ROOT / "tests" / "faults").glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = " ".join(ast.unparse(mark) for mark in node.decorator_list)
                assert "pytest.mark.row(" in marks, f"{path.name}: {node.name}"
                assert "bug=" in marks, f"{path.name}: {node.name} says no bug that made it fail"
