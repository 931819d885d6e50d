"""JSON schemas as people mean them: an object that names its properties is an object, and has no others.

JSON Schema leaves both open. A model that is held to such a schema invents properties until its tokens are used up, or
says a number where an object was meant; TGI (outlines) and vLLM (xgrammar) close them too. What a closed schema takes,
the schema as it was given takes too. `additionalProperties` says otherwise where other properties are wanted.
"""

from __future__ import annotations

from typing import Any

# Where these stand, objects are put together of several schemas, and closing one of them would shut out the others.
_COMBINING = frozenset(
    ["allOf", "not", "if", "dependentSchemas", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"]
)
_ALTERNATIVES = ("anyOf", "oneOf")
_DEFINITIONS = ("$defs", "definitions")
# Beside `properties` these say something of properties that are not named there.
_OPENING = frozenset(
    ["additionalProperties", "patternProperties", "propertyNames", "minProperties", "$ref", *_ALTERNATIVES]
)


def closed(schema: Any) -> Any:
    """`schema` with its objects closed; as it is if it combines schemas or is nested too deeply to be looked at."""
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
    """Whether the object's properties are all that it needs and that anything is said of."""
    named, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(named, dict) or not named or not _OPENING.isdisjoint(schema):
        return False
    return isinstance(required, list) and all(isinstance(name, str) and name in named for name in required)
