"""Branches of a JSON schema that no value fits together."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from container.api.schema.schema_types import resolved, types_of_schema


class Exclusion:
    """Finds out whether it is certain that schemas within `root` exclude each other.

    Each pair is compared once, and each schema read once: it runs on the event loop. The schemas outlive it.
    """

    def __init__(self, root: Any) -> None:
        self._root = root if isinstance(root, dict) else {}
        self._compared: dict[tuple[int, int], bool] = {}
        self._read: dict[int, tuple[frozenset[str], frozenset[Any] | None]] = {}

    def of_all(self, branches: list[Any]) -> bool:
        """Whether no value fits two of them."""
        return all(self._certain(one, other) for one, other in combinations(branches, 2))

    def _certain(self, one: Any, other: Any) -> bool:
        one, other = resolved(one, self._root), resolved(other, self._root)
        if not isinstance(one, dict) or not isinstance(other, dict):
            return False
        key = id(one), id(other)
        if key not in self._compared:
            # Until it is known: a pair that is asked for within itself.
            self._compared[key] = False
            self._compared[key] = self._compare(one, other)
        return self._compared[key]

    def _compare(self, one: dict[str, Any], other: dict[str, Any]) -> bool:
        (types, values), (other_types, other_values) = self._types_and_values(one), self._types_and_values(other)
        if types and other_types and types.isdisjoint(other_types):
            return True
        if values is not None and other_values is not None:
            return values.isdisjoint(other_values)
        return types == other_types == {"object"} and self._objects(one, other)

    def _types_and_values(self, part: dict[str, Any]) -> tuple[frozenset[str], frozenset[Any] | None]:
        """Both as far as they are known: no types, and None, if any may fit."""
        if id(part) not in self._read:
            self._read[id(part)] = _with_number(types_of_schema(part, self._root)), _values(part)
        return self._read[id(part)]

    def _objects(self, one: dict[str, Any], other: dict[str, Any]) -> bool:
        """Whether one forbids what the other requires, or a property that both require has no value in common."""
        if _forbids(one, other) or _forbids(other, one):
            return True
        names = set(filter(_is_name, _required(one))) & set(filter(_is_name, _required(other)))
        return any(self._certain(_property(one, name), _property(other, name)) for name in sorted(names))


def _forbids(one: dict[str, Any], other: dict[str, Any]) -> bool:
    closed_to_others = one.get("additionalProperties") is False and "patternProperties" not in one
    return closed_to_others and any(_property(one, name) is None for name in _required(other))


def _property(part: dict[str, Any], name: Any) -> Any:
    known = part.get("properties")
    return known.get(name) if isinstance(known, dict) and _is_name(name) else None


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _required(part: dict[str, Any]) -> list[Any]:
    found = part.get("required")
    return found if isinstance(found, list) else []


def _values(part: dict[str, Any]) -> frozenset[Any] | None:
    """The only values that fit, None if others may."""
    values = [part["const"]] if "const" in part else part.get("enum")
    return frozenset(map(_hashable, values)) if isinstance(values, list) else None


def _hashable(value: Any) -> Any:
    """Equal for values that JSON calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return frozenset((name, _hashable(each)) for name, each in value.items())
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return ("flag", value) if isinstance(value, bool) else value


def _with_number(types: frozenset[str]) -> frozenset[str]:
    return types | {"number"} if "integer" in types else types
