"""Whether a value fits a JSON schema, as far as its keywords tell without the engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from container.api.schema.schema_check import place
from container.api.schema.schema_types import target_of

# Beyond this, the engine finds out what fits; a schema may name the same part exponentially often.
_MAX_VISITS = 5_000
_PAIRS = {
    "string": [("minLength", "maxLength")],
    "array": [("minItems", "maxItems")],
    "object": [("minProperties", "maxProperties")],
    "number": [(low, high) for low in ("minimum", "exclusiveMinimum") for high in ("maximum", "exclusiveMaximum")],
}
_PAIRS["integer"] = _PAIRS["number"]


class ValueSearch:
    """Looks for contradictions, and for references that only an endless value satisfies. The schema is well-formed."""

    def __init__(self, root: Any) -> None:
        self._root = root if isinstance(root, dict) else {}
        self._open: set[int] = set()
        self._own: dict[int, str | None] = {}
        self._left = _MAX_VISITS

    def fault(self, part: Any, path: str = "") -> str | None:
        """Why no value fits, with the place; None if it is not certain that none does.

        A part that is asked for within itself has no value of its own.
        """
        self._left -= 1
        if part is False:
            return f"{_at(path)}the schema is false"
        if not isinstance(part, dict) or self._left < 0:
            return None
        if id(part) in self._open:
            return f"{_at(path)}a reference leads to itself without end; give it an alternative that ends, such as null"
        self._open.add(id(part))
        found = next(filter(None, self._faults(part, path)), None)
        self._open.discard(id(part))
        return found

    def _faults(self, part: dict[str, Any], path: str) -> Iterator[str | None]:
        if id(part) not in self._own:
            self._own[id(part)] = _own_fault(part)
        own = self._own[id(part)]
        yield None if own is None else _at(path) + own
        target = target_of(part, self._root)
        if target is not None:
            yield self.fault(target, path)
        for key in ("anyOf", "oneOf"):
            if key in part:
                yield self._of_alternatives(part[key], f"{path}.{key}")
        for i, each in enumerate(part.get("allOf", ())):
            yield self.fault(each, f"{path}.allOf[{i}]")
        for below, each in (*_required_properties(part), *_required_items(part)):
            yield self.fault(each, path + below)

    def _of_alternatives(self, branches: list[Any], path: str) -> str | None:
        """The fault of the first branch, if each has one."""
        first: str | None = None
        for i, branch in enumerate(branches):
            found = self.fault(branch, f"{path}[{i}]")
            if found is None:
                return None
            first = first or found
        return first


def _at(path: str) -> str:
    return f"at `{place(path)}`, " if path else ""


def _own_fault(part: dict[str, Any]) -> str | None:
    """The contradiction between keywords of one part, if there is one."""
    types = _types(part)
    found = _fault_of_values(part, types) or _fault_of_names(part, types)
    if found is None and len(types) == 1:
        found = next(filter(None, (_fault_of_range(part, *pair) for pair in _PAIRS.get(types[0], ()))), None)
    return found


def _types(part: dict[str, Any]) -> list[str]:
    kind = part.get("type", [])
    return kind if isinstance(kind, list) else [kind]


def _fault_of_values(part: dict[str, Any], types: list[str]) -> str | None:
    for keyword, values in (("const", [part.get("const")]), ("enum", part.get("enum"))):
        if keyword in part and types and not any(_is_of(value, types) for value in values or ()):
            return f"`{keyword}` has no value of `type` {', '.join(types)}"
    if "const" in part and "enum" in part and not any(_same(part["const"], value) for value in part["enum"]):
        return "`const` is not in `enum`"
    return None


def _fault_of_names(part: dict[str, Any], types: list[str]) -> str | None:
    required, known = part.get("required", ()), part.get("properties", {})
    if types != ["object"] or not required:
        return None
    shut = part.get("additionalProperties") is False and "patternProperties" not in part
    absent = [name for name in required if name not in known]
    if shut and absent:
        return f"`additionalProperties` false shuts out the required property {absent[0][:80]!r}"
    if len(set(required)) > part.get("maxProperties", len(required)):
        return "`required` names more properties than `maxProperties` allows"
    return None


def _fault_of_range(part: dict[str, Any], low: str, high: str) -> str | None:
    least, most = part.get(low), part.get(high)
    if least is None or most is None or isinstance(least, bool) or isinstance(most, bool):
        return None
    if least > most:
        return f"`{low}` is above `{high}`"
    if least == most and (low.startswith("exclusive") or high.startswith("exclusive")):
        return f"`{low}` and `{high}` leave no number"
    return None


def _required_properties(part: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    known = part.get("properties", {})
    if part.get("type", "object") == "object":
        yield from ((f".properties.{name}", known[name]) for name in part.get("required", ()) if name in known)


def _required_items(part: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    first, least = part.get("prefixItems", []), part.get("minItems", 0)
    if part.get("type") != "array":
        return
    yield from ((f".prefixItems[{i}]", each) for i, each in enumerate(first[: int(least)]))
    if least > len(first) and not isinstance(part.get("items"), list):
        yield ".items", part.get("items", True)


def _is_of(value: Any, types: list[str]) -> bool:
    if isinstance(value, bool) or value is None:
        return ("null" if value is None else "boolean") in types
    if isinstance(value, int | float):
        return "number" in types or ("integer" in types and value == int(value))
    return ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object") in types


def _same(one: Any, other: Any) -> bool:
    """Python calls True and 1 equal, JSON does not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
