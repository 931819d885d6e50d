"""The picture in docs/deploy.md is what the command prints now."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tools.plan_picture.__main__ import PICTURE, draw, main
from tools.plan_picture.svg import terminal

ROOT = Path(__file__).resolve().parents[2]


def test_the_picture_is_up_to_date() -> None:
    """`make plan-picture` redraws it."""
    assert PICTURE.read_text() == draw()
    assert f"]({PICTURE.name})" in (ROOT / "docs" / "deploy.md").read_text()


def test_an_old_picture_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.plan_picture.__main__.PICTURE", tmp_path / "plan.svg")
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "plan.svg").write_text("<svg/>")
    assert main(["--check"]) == 1


def test_a_picture_holds_every_line_as_text() -> None:
    lines = ["$ a < b & c", "", "  indented"]
    root = ET.fromstring(terminal(lines, 80))
    texts = [element.text for element in root.iter() if element.text and element.text.strip()]
    assert texts == ["$ a < b & c", "indented"]
    width = float(root.attrib["width"])
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        assert float(element.attrib["x"]) + float(element.attrib["textLength"]) <= width
    assert not re.search(r"https?://(?!www\.w3\.org)", terminal(lines, 80)), "nothing is fetched"
