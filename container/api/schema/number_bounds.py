"""Bounds of numbers in a JSON schema as the grammar engine takes them: it counts in 64 bits."""

from __future__ import annotations

from typing import Any

from container.errors import InvalidRequest

# Just below 2^63, and exact as a float.
LARGEST = 2**63 - 4096
# The engine needs a second bound beyond a first one of 18 digits.
_NEEDS_ANOTHER = 10**17
_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")


def bounded(part: dict[str, Any]) -> dict[str, Any]:
    """`part` with no bound beyond `LARGEST`. Every number that fits it fits the original one.

    Raises InvalidRequest if only numbers beyond `LARGEST` fit.
    """
    if isinstance(part.get("type"), str) and part["type"] not in {"number", "integer"}:
        return part
    lower, upper = _given(part, _LOWER), _given(part, _UPPER)
    for key, value in (*lower.items(), *upper.items()):
        if value > LARGEST if key in lower else value < -LARGEST:
            raise InvalidRequest(
                f"`{key}` {value} in the JSON schema leaves only numbers beyond {LARGEST}, "
                "the largest that can be enforced"
            )
    found = part | {key: max(value, -LARGEST) for key, value in lower.items()}
    found |= {key: min(value, LARGEST) for key, value in upper.items()}
    if not upper and any(value >= _NEEDS_ANOTHER for value in lower.values()):
        found["maximum"] = LARGEST
    if not lower and any(value <= -_NEEDS_ANOTHER for value in upper.values()):
        found["minimum"] = -LARGEST
    return found


def _given(part: dict[str, Any], keys: tuple[str, str]) -> dict[str, int | float]:
    """The bounds that are numbers; before draft 6, `exclusiveMinimum` was a flag."""
    found = {key: part.get(key) for key in keys}
    return {
        key: value for key, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
