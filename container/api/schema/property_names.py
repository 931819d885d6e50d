"""`propertyNames` in terms of `properties` and `patternProperties`, as zod and pydantic write it for records."""

from __future__ import annotations

from typing import Any

_DESCRIBING = frozenset(["properties", "patternProperties", "required", "minProperties"])
_ANNOTATIONS = frozenset(["title", "description", "default", "examples", "$comment"])


def without_property_names(part: dict[str, Any]) -> dict[str, Any]:
    """The same schema without `propertyNames`; unchanged if there is no other way to say it."""
    names = part.get("propertyNames")
    if "propertyNames" not in part or not isinstance(names, dict | bool):
        return part
    rest = {key: value for key, value in part.items() if key != "propertyNames"}
    asserted = {} if isinstance(names, bool) else {key: names[key] for key in names if key not in _ANNOTATIONS}
    if names is not False and asserted in ({}, {"type": "string"}):
        return rest
    asserted.pop("type", None)
    if names is False or rest.get("type") != "object" or not _DESCRIBING.isdisjoint(rest) or len(asserted) != 1:
        return part
    return _by_name(rest, *next(iter(asserted.items()))) or part


def _by_name(rest: dict[str, Any], keyword: str, value: Any) -> dict[str, Any] | None:
    values = rest.get("additionalProperties", True)
    if keyword == "pattern":
        return rest | {"patternProperties": {value: values}, "additionalProperties": False}
    names = [value] if keyword == "const" else value
    if keyword in ("enum", "const") and isinstance(names, list) and all(isinstance(name, str) for name in names):
        return rest | {"properties": dict.fromkeys(names, values), "additionalProperties": False}
    return None
