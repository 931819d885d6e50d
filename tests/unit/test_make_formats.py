"""A fixture is replaced when its new files are there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools.make_formats import __main__ as make_formats


def test_a_writer_that_fails_leaves_the_fixture_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixtures = tmp_path / "formats"
    (fixtures / "x").mkdir(parents=True)
    (fixtures / "x" / "old.json").write_text("old")
    monkeypatch.setattr(make_formats, "FIXTURES", fixtures)

    def write(dense: Path, target: Path) -> None:
        assert (dense / "config.json").is_file()
        (target / "new.json").write_text("new")
        (target / "left.log").write_text("of no use")

    def fail(dense: Path, target: Path) -> None:
        write(dense, target)
        raise RuntimeError("the library failed")

    module: Any = SimpleNamespace(WRITERS={"x": fail}, LIBRARIES=())
    with pytest.raises(RuntimeError, match="the library failed"):
        make_formats._make(module, "x")
    assert [path.name for path in fixtures.rglob("*")] == ["x", "old.json"]
    module.WRITERS["x"] = write
    make_formats._make(module, "x")
    assert {path.name for path in (fixtures / "x").iterdir()} == {"new.json", "made_by.json"}
    assert list(tmp_path.iterdir()) == [fixtures]
