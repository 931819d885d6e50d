"""Every promise of SECURITY.md is held by a test there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ")][1:]


def test_every_promise_names_its_tests() -> None:
    assert len(ROWS) > 10
    for row in ROWS:
        held_by = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.rstrip(" |").rpartition("|")[2])
        assert held_by, row
        for file, name in held_by:
            tree = ast.parse((ROOT / file).read_text())
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, name)


def test_links_of_the_page_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (ROOT / target).exists(), target
