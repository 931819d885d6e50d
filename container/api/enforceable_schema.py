"""A client's JSON schema as the grammar engine takes it, or the reason why no answer can fit it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

from container.api.closed_schema import closed
from container.api.number_bounds import bounded
from container.api.schema_types import resolved, target_of, types_of_schema
from container.errors import InvalidRequest

# The engine's; JSON Schema has a `format` that nobody knows assert nothing.
FORMATS = frozenset(
    ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"]
)
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
# Beyond this, the engine finds out what fits; a schema may name the same part exponentially often.
_MAX_VISITS = 5_000
# Floats hold each integer up to this one.
_MAX_EXACT = 2**53


def enforceable(schema: Any) -> Any:
    """The schema to enforce: objects closed, annotations dropped. Raises InvalidRequest if nothing can fit it.

    The engine takes the schema `true`, which anything fits, only as an empty object.
    """
    if schema is False:
        raise InvalidRequest("no value fits the JSON schema `false`")
    try:
        if not _Values(schema).exist(schema):
            raise InvalidRequest(
                "no value fits the JSON schema: a reference in it leads to itself without end; give it an alternative "
                "that ends, such as null"
            )
        return {} if schema is True else closed(_rewritten(schema, lambda part: _plain(part, schema)))
    except RecursionError:
        return schema


def _rewritten(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema after `change` of each part, innermost first. Names of properties and constants are no parts."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for key in _NAMED:
        if isinstance(schema.get(key), dict):
            found[key] = {name: _rewritten(part, change) for name, part in schema[key].items()}
    for key in _LISTED:
        if isinstance(schema.get(key), list):
            found[key] = [_rewritten(part, change) for part in schema[key]]
    for key in _SINGLE:
        if key in schema:
            found[key] = _rewritten(schema[key], change)
    return change(found)


def _plain(part: dict[str, Any], root: Any) -> dict[str, Any]:
    """One part without what asserts nothing. Branches of `oneOf` that exclude each other become those of `anyOf`."""
    if isinstance(part.get("format"), str) and part["format"] not in FORMATS:
        del part["format"]
    if part.get("uniqueItems") is False:
        del part["uniqueItems"]
    if isinstance(part.get("enum"), list):
        part["enum"] = [_integral(value) for value in part["enum"]]
    if "const" in part:
        part["const"] = _integral(part["const"])
    branches = part.get("oneOf")
    if isinstance(branches, list) and "anyOf" not in part and all(_disjoint(a, b, root) for a, b in _pairs(branches)):
        part["anyOf"] = part.pop("oneOf")
    return bounded(part)


def _integral(value: Any) -> Any:
    """1 for 1.0, which JSON calls equal."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_EXACT
    return int(value) if exact else value


def _pairs(branches: list[Any]) -> list[tuple[Any, Any]]:
    return list(combinations(branches, 2)) if len(branches) <= 64 else [(True, True)]


def _disjoint(one: Any, other: Any, root: Any) -> bool:
    """Whether it is certain that no value fits both."""
    root = root if isinstance(root, dict) else {}
    one, other = resolved(one, root), resolved(other, root)
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    types = types_of_schema(one, root), types_of_schema(other, root)
    if all(types) and not _with_number(types[0]) & _with_number(types[1]):
        return True
    values = _values(one), _values(other)
    if None not in values:
        return not any(value in (values[1] or []) for value in values[0] or [])
    return types[0] == types[1] == {"object"} and _objects_disjoint(one, other, root)


def _objects_disjoint(one: dict[str, Any], other: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether one forbids what the other requires, or a property that both require has no value in common."""
    if _forbids(one, other) or _forbids(other, one):
        return True
    names = set(filter(_is_name, _listed(one, "required"))) & set(filter(_is_name, _listed(other, "required")))
    return any(_disjoint(_property(one, name), _property(other, name), root) for name in names)


def _forbids(one: dict[str, Any], other: dict[str, Any]) -> bool:
    closed_to_others = one.get("additionalProperties") is False and "patternProperties" not in one
    return closed_to_others and any(_property(one, name) is None for name in _listed(other, "required"))


def _property(part: dict[str, Any], name: Any) -> Any:
    known = part.get("properties")
    return known.get(name) if isinstance(known, dict) and _is_name(name) else None


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _values(part: dict[str, Any]) -> list[Any] | None:
    """The only values that fit, None if others may."""
    if "const" in part:
        return [part["const"]]
    return part["enum"] if isinstance(part.get("enum"), list) else None


def _with_number(types: frozenset[str]) -> frozenset[str]:
    return types | {"number"} if "integer" in types else types


class _Values:
    """Finds out whether a finite value fits a schema; only references can ask for an endless one."""

    def __init__(self, root: Any) -> None:
        self._root = root if isinstance(root, dict) else {}
        self._open: set[int] = set()
        self._left = _MAX_VISITS

    def exist(self, part: Any) -> bool:
        """Whether some value fits. A part that is asked for within itself has none of its own."""
        self._left -= 1
        if not isinstance(part, dict) or self._left < 0:
            return True
        if id(part) in self._open:
            return False
        self._open.add(id(part))
        found = self._in_reference(part) and self._in_branches(part) and self._in_contents(part)
        self._open.discard(id(part))
        return found

    def _in_reference(self, part: dict[str, Any]) -> bool:
        target = target_of(part, self._root)
        return target is None or self.exist(target)

    def _in_branches(self, part: dict[str, Any]) -> bool:
        alternatives = [part[key] for key in ("anyOf", "oneOf") if isinstance(part.get(key), list)]
        return all(any(map(self.exist, each)) for each in alternatives) and all(map(self.exist, _listed(part, "allOf")))

    def _in_contents(self, part: dict[str, Any]) -> bool:
        needed: list[Any] = []
        named, required = part.get("properties"), part.get("required")
        if part.get("type", "object") == "object" and isinstance(named, dict) and isinstance(required, list):
            needed += [named[name] for name in required if isinstance(name, str) and name in named]
        least = part.get("minItems", 0)
        if part.get("type") == "array" and isinstance(least, int) and least > 0:
            first = _listed(part, "prefixItems")
            needed += first[:least] if least <= len(first) else [*first, part.get("items", True)]
        return all(map(self.exist, needed))


def _listed(part: dict[str, Any], key: str) -> list[Any]:
    found = part.get(key)
    return found if isinstance(found, list) else []
