"""JSON schemas as authors mean them: `properties` implies an object, and an object without other properties.

JSON Schema implies neither. Constrained by such a schema, a model invents properties until its tokens run out, or
writes a number instead of an object; TGI (outlines) and vLLM (xgrammar) close schemas too. Every value that fits the
closed schema also fits the original one. `additionalProperties` keeps a schema open.
"""

from __future__ import annotations

from typing import Any

# These build an object from several schemas; closing one of them would exclude the properties of the others.
# Branches of `oneOf` that overlap would exclude each other once they are closed.
_COMBINING = frozenset(
    ["allOf", "oneOf", "not", "if", "dependentSchemas", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"]
)
_ALTERNATIVES = ("anyOf",)
_DEFINITIONS = ("$defs", "definitions")
# Next to `properties`, these describe properties that it does not name.
_OPENING = frozenset(
    ["additionalProperties", "patternProperties", "propertyNames", "minProperties", "$ref", *_ALTERNATIVES]
)
# Next to `properties`, these are whole objects.
_VALUES = frozenset(["enum", "const"])


def closed(schema: Any) -> Any:
    """`schema` with its objects closed; unchanged if it combines schemas or is nested too deeply to examine."""
    try:
        return schema if _combines(schema) else _closed(schema)
    except RecursionError:
        return schema


def _combines(value: Any) -> bool:
    if isinstance(value, dict):
        beside = "$ref" in value and ("properties" in value or "required" in value)
        return beside or not _COMBINING.isdisjoint(value) or any(map(_combines, value.values()))
    return isinstance(value, list) and any(map(_combines, value))


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    found = {**schema}
    for key in ("properties", *_DEFINITIONS):
        if isinstance(schema.get(key), dict):
            found[key] = {name: _closed(part) for name, part in schema[key].items()}
    for key in ("items", "additionalProperties"):
        found |= {key: _closed(schema[key])} if key in schema else {}
    for key in (*_ALTERNATIVES, "prefixItems"):
        if isinstance(schema.get(key), list) and "properties" not in schema:
            found[key] = [_closed(part) for part in schema[key]]
    if _names_all(schema):
        found = {"type": "object"} | found | {"additionalProperties": False}
    return found


def _names_all(schema: dict[str, Any]) -> bool:
    """Whether `properties` names every property that the schema requires or describes."""
    named, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(named, dict) or not named or not (_OPENING | _VALUES).isdisjoint(schema):
        return False
    return isinstance(required, list) and all(isinstance(name, str) and name in named for name in required)
