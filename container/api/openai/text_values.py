"""What a schema asks of a value that a call writes as text, without quotes, and no rule of its grammar holds."""

from __future__ import annotations

from typing import Any

from container.api.schema.schema_exclusion import Exclusion
from container.api.schema.schema_types import target_of, types_of_schema

_HELD_IN_TEXT = frozenset(["minLength", "maxLength", "pattern", "format", "type"])
_ASSERTING = _HELD_IN_TEXT | {"$ref", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "enum", "const"}
_MAX_DEPTH = 16


def unheld_keyword(part: Any, root: dict[str, Any], depth: int = 0) -> str | None:
    """The first keyword that the text may break, None if there is none. Values that are no text are JSON, and held."""
    if not isinstance(part, dict) or depth > _MAX_DEPTH:
        return None
    asserting: list[str] = [keyword for keyword in part if keyword in _ASSERTING and keyword != "type"]
    for alone in ("$ref", "anyOf", "oneOf", "const", "enum"):
        if alone in part and len(asserting) > 1:
            return next(keyword for keyword in asserting if keyword != alone)
    if "$ref" in part:
        return unheld_keyword(target_of(part, root), root, depth + 1)
    if isinstance(part.get("oneOf"), list) and not Exclusion(root).of_all(part["oneOf"]):
        return "oneOf"
    branches = part.get("anyOf", part.get("oneOf"))
    if isinstance(branches, list):
        return next(filter(None, (unheld_keyword(branch, root, depth + 1) for branch in branches)), None)
    types = types_of_schema(part, root)
    if "enum" in part or "const" in part or (types and "string" not in types):
        return None
    return next((keyword for keyword in asserting if keyword not in _HELD_IN_TEXT), None)
