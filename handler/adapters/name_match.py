"""`NamePatterns`: the regular expressions of an adapter's configuration, which a stranger wrote, within limits."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import regex

from handler.adapters.adapter import BadAdapter

# Seconds that all expressions of one adapter may take, compiled and matched. An honest one takes microseconds a name.
_LIMIT_S = 5.0
# `regex` takes no limit of 0.
_LEAST_S = 0.001
# peft writes one for each module where ranks differ.
_MAX_PATTERNS = 5_000
_MAX_CHARS = 10_000


class NamePatterns:
    """Compiles each expression once, and remembers what matched a name. The limits count for all of one adapter."""

    def __init__(self) -> None:
        self._compiled: dict[str, Any] = {}
        self._found: dict[tuple[str, str], tuple[int, Any] | None] = {}
        self._left_s = _LIMIT_S

    def first(self, field: str, expressions: Iterable[str], name: str) -> tuple[int, Any] | None:
        """The first of a field's expressions that matches the whole name, by number, and its match; None without.

        A field must have the same expressions in each call. Raises BadAdapter if there are too many, or if they are
        not valid, too long or take too long.
        """
        key = field, name
        if key not in self._found:
            found = ((number, self._match(field, each, name)) for number, each in enumerate(expressions))
            self._found[key] = next((each for each in found if each[1] is not None), None)
        return self._found[key]

    def _match(self, field: str, expression: str, name: str) -> Any:
        began = time.monotonic()
        try:
            pattern = self._pattern(field, expression)
            left_s = self._left_s - (time.monotonic() - began)
            # Concurrent: the engine's loop goes on meanwhile.
            return pattern.fullmatch(name, timeout=max(_LEAST_S, left_s), concurrent=True)
        except TimeoutError as exc:
            raise BadAdapter(f"{field} has a pattern that takes too long to match") from exc
        finally:
            self._left_s -= time.monotonic() - began

    def _pattern(self, field: str, expression: str) -> Any:
        if self._left_s <= 0:
            raise BadAdapter(f"{field} has patterns that take too long to match")
        if expression not in self._compiled:
            if len(expression) > _MAX_CHARS:
                raise BadAdapter(f"{field} has a pattern of more than {_MAX_CHARS} characters")
            if len(self._compiled) >= _MAX_PATTERNS:
                raise BadAdapter(f"{field} has more patterns than the {_MAX_PATTERNS} that one adapter may have")
            self._compiled[expression] = _compiled(field, expression)
        return self._compiled[expression]


def _compiled(field: str, expression: str) -> Any:
    try:
        return regex.compile(expression, cache_pattern=False)
    except (regex.error, ValueError, OverflowError, RecursionError) as exc:
        raise BadAdapter(f"{field} has a pattern that is not a regular expression: {str(exc)[:200]}") from exc


def is_named(path: str, names: frozenset[str]) -> bool:
    """Whether one of the names is the path's end, from a dot on, or the whole path."""
    while path:
        if path in names:
            return True
        path = path.partition(".")[2]
    return False
