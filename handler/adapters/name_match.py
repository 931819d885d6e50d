"""`NamePatterns`: the regular expressions of an adapter's configuration, which a stranger wrote, within limits."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

import regex

from handler.adapters.adapter import BadAdapter

# Seconds that all expressions of one adapter may take, compiled and matched. An honest one takes microseconds a name.
_LIMIT_S = 5.0
# `regex` takes no limit of 0.
_LEAST_S = 0.001
# Of one field. peft writes one for each module where ranks differ.
_MAX_PATTERNS = 5_000
_MAX_CHARS = 10_000
# Of these characters only the dot means something else than itself.
_LITERAL = re.compile(r"[A-Za-z0-9_.]+")


class NamePatterns:
    """Compiles each expression once, and remembers what matched a name. All of an adapter share one limit of time."""

    def __init__(self) -> None:
        self._compiled: dict[str, Any] = {}
        self._found: dict[tuple[str, str], tuple[int, Any] | None] = {}
        self._left_s, self._until_s = _LIMIT_S, 0.0

    def first(self, field: str, expressions: Iterable[str | None], name: str) -> tuple[int, Any] | None:
        """The first of a field's expressions that matches the whole name, by number, and its match; None without.

        None in place of an expression is for one that is known not to match. A field must have the same expressions in
        each call. Raises BadAdapter if there are too many, or if they are not valid, too long or take too long.
        """
        key = field, name
        if key not in self._found:
            began = time.monotonic()
            self._until_s = began + self._left_s
            try:
                self._found[key] = self._search(field, expressions, name)
            finally:
                self._left_s -= time.monotonic() - began
        return self._found[key]

    def _search(self, field: str, expressions: Iterable[str | None], name: str) -> tuple[int, Any] | None:
        self._check_time(field)
        for number, expression in enumerate(expressions):
            if number >= _MAX_PATTERNS:
                raise BadAdapter(f"{field} has more than {_MAX_PATTERNS} patterns")
            found = None if expression is None else self._match(field, expression, name)
            if found is not None:
                return number, found
        return None

    def _match(self, field: str, expression: str, name: str) -> Any:
        self._check_time(field)
        if expression not in self._compiled:
            self._compiled[expression] = _compiled(field, expression)
        try:
            # Concurrent: the engine's loop goes on meanwhile.
            left_s = max(_LEAST_S, self._until_s - time.monotonic())
            return self._compiled[expression].fullmatch(name, timeout=left_s, concurrent=True)
        except TimeoutError as exc:
            raise BadAdapter(f"{field} has a pattern that takes too long to match") from exc

    def _check_time(self, field: str) -> None:
        if time.monotonic() >= self._until_s:
            raise BadAdapter(f"{field} has patterns that take too long to match")


def _compiled(field: str, expression: str) -> Any:
    if len(expression) > _MAX_CHARS:
        raise BadAdapter(f"{field} has a pattern of more than {_MAX_CHARS} characters")
    try:
        return regex.compile(expression, cache_pattern=False)
    except (regex.error, ValueError, OverflowError, RecursionError) as exc:
        raise BadAdapter(f"{field} has a pattern that is not a regular expression: {str(exc)[:200]}") from exc


def may_end(name: str, pattern: str) -> bool:
    """False if the name cannot end as the pattern does. It costs a tenth of a match, and most patterns are names."""
    last = pattern.rpartition(".")[2]
    return not _LITERAL.fullmatch(pattern) or name.endswith(last)


def is_named(path: str, names: frozenset[str]) -> bool:
    """Whether one of the names is the path's end, from a dot on, or the whole path."""
    while path:
        if path in names:
            return True
        path = path.partition(".")[2]
    return False
