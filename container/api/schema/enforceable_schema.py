"""A client's JSON schema as the grammar engine takes it, or the reason why no answer can fit it."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import msgspec

from container.api.schema.closed_schema import closed
from container.api.schema.number_bounds import bounded
from container.api.schema.property_names import without_property_names
from container.api.schema.schema_check import (
    COUNTS,
    UNEVALUATED,
    asks_for_unique_items,
    check_schema,
    is_plain_unevaluated,
)
from container.api.schema.schema_exclusion import Exclusion
from container.api.schema.schema_values import ValueSearch
from container.errors import InvalidRequest

# The engine's; JSON Schema has a `format` that nobody knows assert nothing.
FORMATS = frozenset(
    ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"]
)
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
# Annotations, and the engine's own switches, which loosen what it enforces.
_ASSERTING_NOTHING = frozenset(["title", "description", "default", "examples", "$comment", "x-guidance"])
# The engine looks for any other dialect on the web.
_DIALECT = re.compile(r"https?://json-schema\.org/(draft-0[4-7]/schema|draft/20(19-09|20-12)/schema)#?")
_JSON_STRING, _OTHER = re.compile(rb'"(?:[^"\\]|\\.)*"'), re.compile(rb"[^\[\]{}]+")
# The engine's bound counts without annotations.
_MAX_BYTES = 131_072
# The engine's JSON parser ends at 128, its wrapping included.
_MAX_DEPTH = 124
_MAX_BRANCHES = 64
# Floats hold each integer up to this one.
_MAX_EXACT = 2**53


def enforceable(schema: Any) -> Any:
    """The schema to enforce: objects closed, annotations dropped.

    Raises InvalidRequest with the place if a keyword is wrong or cannot be held, or if nothing fits.
    """
    _check_size(schema)
    schema = _rewritten(schema, _listing_required)
    check_schema(schema)
    reason = ValueSearch(schema).fault(schema)
    if reason is not None:
        raise InvalidRequest(f"no value fits the JSON schema: {reason}")
    return {} if schema is True else closed(_rewritten(schema, lambda part: _plain(part, schema)))


def _check_size(schema: Any) -> None:
    """Raises InvalidRequest. What is not too deep is read recursively."""
    try:
        raw = msgspec.json.encode(schema)
    except RecursionError as exc:
        raise InvalidRequest("the JSON schema is nested too deeply") from exc
    if len(raw) > _MAX_BYTES:
        raise InvalidRequest(f"the JSON schema must be at most {_MAX_BYTES} bytes. Given: {len(raw)}")
    brackets = _OTHER.sub(b"", _JSON_STRING.sub(b"", raw))
    depth = max(accumulate((1 if each in b"[{" else -1 for each in brackets), initial=0))
    if depth > _MAX_DEPTH:
        raise InvalidRequest(f"the JSON schema must be nested at most {_MAX_DEPTH} levels deep. Given: {depth}")


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
    part = without_property_names({key: value for key, value in part.items() if key not in _ASSERTING_NOTHING})
    if isinstance(part.get("format"), str) and part["format"] not in FORMATS:
        del part["format"]
    if not asks_for_unique_items(part):
        part.pop("uniqueItems", None)
    if not _DIALECT.fullmatch(str(part.get("$schema"))):
        part.pop("$schema", None)
    _rename_unevaluated(part)
    for key in COUNTS:
        if key in part:
            part[key] = _integral(part[key])
    if isinstance(part.get("enum"), list):
        part["enum"] = [_integral(value) for value in part["enum"]]
    if "const" in part:
        part["const"] = _integral(part["const"])
    branches = part.get("oneOf")
    if isinstance(branches, list) and "anyOf" not in part and _exclude_each_other(branches, root):
        part["anyOf"] = part.pop("oneOf")
    return bounded(part)


def _listing_required(part: dict[str, Any]) -> dict[str, Any]:
    """One part whose `required` is a list, where its properties have the flags of draft 3."""
    known, listed = part.get("properties"), part.get("required", [])
    if not isinstance(known, dict) or not isinstance(listed, list):
        return part
    flagged = [
        name for name, each in known.items() if isinstance(each, dict) and isinstance(each.get("required"), bool)
    ]
    if not flagged:
        return part
    needed = [name for name in flagged if known[name]["required"] and name not in listed]
    bare = {name: {key: known[name][key] for key in known[name] if key != "required"} for name in flagged}
    return part | {"properties": known | bare, "required": [*listed, *needed]}


def _rename_unevaluated(part: dict[str, Any]) -> None:
    """Where nothing else evaluates, these are the older keywords."""
    for keyword, older in UNEVALUATED.items():
        if keyword in part and is_plain_unevaluated(part, keyword):
            part[older] = part.pop(keyword)


def _exclude_each_other(branches: list[Any], root: Any) -> bool:
    return len(branches) <= _MAX_BRANCHES and Exclusion(root).of_all(branches)


def _integral(value: Any) -> Any:
    """1 for 1.0, which JSON calls equal."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_EXACT
    return int(value) if exact else value
