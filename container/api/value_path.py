"""The position of a value in a JSON body: msgspec's paths, such as `$.messages[0].role`, as steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Step = str | int
ANY_KEY = "..."

_STEP = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")


def steps_of(path: str) -> list[Step]:
    """The keys and indices of a path without its `$`. msgspec writes "..." (`ANY_KEY`) for any key of a dict."""
    return [_step(found["key"], found["index"]) for found in _STEP.finditer(path)]


def _step(key: str | None, index: str) -> Step:
    if key is not None:
        return key
    return int(index) if index.isdecimal() else index


def value_at(body: Any, steps: Sequence[Step]) -> Any:
    """The value the steps lead to; None where they cannot be followed exactly."""
    value = body
    for step in steps:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def replaced(body: Any, steps: Sequence[Step], value: Any) -> Any:
    """A copy of `body` that holds `value` where the steps, which exist, lead to; the rest is shared."""
    if not steps:
        return value
    found = body.copy()
    found[steps[0]] = replaced(body[steps[0]], steps[1:], value)
    return found
