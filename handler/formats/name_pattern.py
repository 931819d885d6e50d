"""Patterns of module names, as published configurations have them."""

from __future__ import annotations

import functools

import regex

from handler.seam.errors import BadModel

# A pattern that takes longer for one name backtracks without end; usual ones take microseconds.
_TIMEOUT_S = 0.5


def matches(pattern: str, name: str) -> bool:
    """Whether the regular expression `pattern` matches the start of `name`. Raises BadModel for one that is none."""
    try:
        return _compiled(pattern).match(name, timeout=_TIMEOUT_S) is not None
    except regex.error as exc:
        raise BadModel(f"{pattern[:100]!r} in config.json is not a regular expression: {exc}") from exc
    except TimeoutError as exc:
        raise BadModel(f"the pattern {pattern[:100]!r} in config.json takes too long to match {name}") from exc


@functools.cache
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern)
