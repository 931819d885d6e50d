"""Patterns of published configurations: matched from the start, refused if they are none or never end."""

from __future__ import annotations

import pytest

from handler.formats import name_pattern
from handler.seam.errors import BadModel


def test_a_pattern_matches_from_the_start() -> None:
    assert name_pattern.matches(r".*\.lm_head", "model.lm_head")
    assert not name_pattern.matches("lm_head", "model.lm_head")


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(BadModel, match="is not a regular expression"):
        name_pattern.matches("(", "x")


def test_a_pattern_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own answer to its limit; no pattern that takes long is kept here."""

    class Slow:
        def match(self, name: str, timeout: float) -> None:
            raise TimeoutError

    monkeypatch.setattr(name_pattern, "_compiled", lambda _pattern: Slow())
    with pytest.raises(BadModel, match="takes too long"):
        name_pattern.matches(".*", "model.lm_head")
