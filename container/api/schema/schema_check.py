"""Keywords of a client's JSON schema that are not well-formed or that no grammar can hold, by their place.

Unknown keywords are annotations, as JSON Schema says. Only parts that the schema uses are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from container.api.schema.property_names import without_property_names
from container.api.schema.schema_types import is_pointer, target_of
from container.api.validation import show
from container.errors import InvalidRequest

TYPES = frozenset(["string", "number", "integer", "boolean", "object", "array", "null"])
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NAMED = ("properties", "patternProperties")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties")
_MAX_PLACE_CHARS = 200
_ID = re.compile(rb'"(?:\$id|id)":')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_type(value: Any) -> bool:
    several = value if isinstance(value, list) else [value]
    return bool(several) and all(isinstance(each, str) and each in TYPES for each in several)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


_A_STRING = ("a string", lambda value: isinstance(value, str))
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(COUNTS, ("a whole number from 0", _is_count)),
    **dict.fromkeys(("minimum", "maximum"), ("a number", _is_number)),
    # Draft 4 has flags.
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"), ("a number", lambda value: isinstance(value, int | float))
    ),
    "multipleOf": ("a number above 0", lambda value: _is_number(value) and value > 0),
    **dict.fromkeys(("pattern", "format", "$ref"), _A_STRING),
    "type": (f"one of {', '.join(sorted(TYPES))}, or a list of them", _is_type),
    "enum": ("a list of at least one value", lambda value: _is_list(value) and bool(value)),
    "required": ("a list of names", _are_names),
    **dict.fromkeys(_NAMED, ("an object of schemas", lambda value: isinstance(value, dict))),
    **dict.fromkeys(("anyOf", "oneOf"), ("a list of at least one schema", lambda value: _is_list(value) and value)),
    **dict.fromkeys(("allOf", "prefixItems"), ("a list of schemas", _is_list)),
}
_NEVER_HELD = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains"),
    *("dependentRequired", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef"),
)
UNEVALUATED = {"unevaluatedItems": "items", "unevaluatedProperties": "additionalProperties"}
# These evaluate items or properties for the schema beside them.
_APPLICATORS = frozenset(["$ref", "allOf", "anyOf", "oneOf"])


def check_schema(schema: Any) -> None:
    """Raises InvalidRequest."""
    seen: set[int] = set()
    left = [("", schema)]
    # A part with an `$id` is a root of its own for references within it, which only the engine follows.
    has_roots = isinstance(schema, dict) and _ID.search(msgspec.json.encode([*schema.values()])) is not None
    while left:
        path, part = left.pop()
        if isinstance(part, bool) or id(part) in seen:
            continue
        seen.add(id(part))
        if not isinstance(part, dict):
            _refuse(path, "must be a schema, an object or a boolean", part)
        for keyword, value in part.items():
            if keyword in _RULES and not _RULES[keyword][1](value):
                _refuse(f"{path}.{keyword}", f"must be {_RULES[keyword][0]}", value)
        if not has_roots and _leads_nowhere(part, schema):
            _refuse(f"{path}.$ref", "must name a part of it", part["$ref"])
        for keyword in _unheld(part):
            _refuse(f"{path}.{keyword}", "cannot be enforced; leave it out", None)
        # The first part is the next one.
        left += reversed([*_parts(path, part), *_target(part, schema)])


def _refuse(path: str, words: str, value: Any) -> None:
    what = f"`{place(path)}` of the JSON schema" if path else "the JSON schema"
    given = "" if words.startswith("cannot") else f". Given: {show(value)}"
    raise InvalidRequest(f"{what} {words}{given}")


def place(path: str) -> str:
    """A path as a message shows it: its end, if it is long."""
    path = path.removeprefix(".")
    return path if len(path) <= _MAX_PLACE_CHARS else f"...{path[-_MAX_PLACE_CHARS:]}"


def _unheld(part: dict[str, Any]) -> Iterator[str]:
    yield from (keyword for keyword in _NEVER_HELD if keyword in part)
    yield from (keyword for keyword in UNEVALUATED if keyword in part and not is_plain_unevaluated(part, keyword))
    if asks_for_unique_items(part):
        yield "uniqueItems"
    if "propertyNames" in without_property_names(part):
        yield "propertyNames"


def asks_for_unique_items(part: dict[str, Any]) -> bool:
    """Whether `uniqueItems` forbids anything."""
    most = part.get("maxItems")
    at_most_one = isinstance(most, int | float) and most <= 1
    return part.get("uniqueItems") not in (None, False) and not at_most_one


def is_plain_unevaluated(part: dict[str, Any], keyword: str) -> bool:
    """Whether one of UNEVALUATED means its older keyword."""
    return UNEVALUATED[keyword] not in part and _APPLICATORS.isdisjoint(part)


def _parts(path: str, part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword in _NAMED:
        yield from ((f"{path}.{keyword}.{name}", each) for name, each in part.get(keyword, {}).items())
    for keyword in _LISTED:
        yield from ((f"{path}.{keyword}[{i}]", each) for i, each in enumerate(part.get(keyword, [])))
    for keyword in _SINGLE:
        if isinstance(part.get(keyword), list):  # Until 2019-09
            yield from ((f"{path}.{keyword}[{i}]", each) for i, each in enumerate(part[keyword]))
        elif keyword in part:
            yield f"{path}.{keyword}", part[keyword]


def _leads_nowhere(part: dict[str, Any], root: Any) -> bool:
    return is_pointer(part.get("$ref", "")) and target_of(part, root) is None


def _target(part: dict[str, Any], root: Any) -> Iterator[tuple[str, Any]]:
    found = target_of(part, root if isinstance(root, dict) else {})
    if found is not None:
        yield re.sub(r"[/#]+", ".", part["$ref"]), found
