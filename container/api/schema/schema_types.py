"""The types that a JSON schema allows for a property, as far as they can be read without a validator."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

_MAX_REFERENCES = 16


def property_of(schema: dict[str, Any], name: str) -> Any:
    """The schema of a property, with references followed; True if the schema does not mention it."""
    known = resolved(schema, schema).get("properties")
    if isinstance(known, dict) and name in known:
        return resolved(known[name], schema)
    return True


def types_of(schema: dict[str, Any], name: str) -> frozenset[str]:
    """JSON's names of the types a property may have; empty if the schema does not restrict them."""
    return types_of_schema(property_of(schema, name), schema)


def resolved(part: Any, root: dict[str, Any]) -> Any:
    """`part`, or the target of its `$ref` within `root`; `part` itself if the target does not exist."""
    for _ in range(_MAX_REFERENCES):
        found = target_of(part, root)
        if found is None:
            break
        part = found
    return part


def target_of(part: Any, root: dict[str, Any]) -> Any:
    """What the `$ref` of `part` names within `root`; None without a reference, or if nothing has that name."""
    if not isinstance(part, dict) or not isinstance(part.get("$ref"), str) or not is_pointer(part["$ref"]):
        return None
    found: Any = root
    for step in part["$ref"].split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(name)] if name.isdecimal() and int(name) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found


def is_pointer(reference: str) -> bool:
    """Whether a `$ref` is a path from the root; others name an `$id` or `$anchor`."""
    return reference == "#" or reference.startswith("#/")


def types_of_schema(part: Any, root: dict[str, Any]) -> frozenset[str]:
    """JSON's names of the types that a schema within `root` allows; empty if it does not restrict them."""
    return _types(part, root, {}) or frozenset()


def _types(part: Any, root: dict[str, Any], found: dict[int, frozenset[str] | None]) -> frozenset[str] | None:
    """None for a part that is asked for within itself, which adds nothing. Each part is read once."""
    if not isinstance(part, dict):
        return frozenset()
    if id(part) not in found:
        found[id(part)] = None
        found[id(part)] = _own_types(part, root, found)
    return found[id(part)]


def _own_types(part: dict[str, Any], root: dict[str, Any], found: dict[int, frozenset[str] | None]) -> frozenset[str]:
    kind = part.get("type")
    if isinstance(kind, str):
        return frozenset([kind])
    if isinstance(kind, list):
        return frozenset(each for each in kind if isinstance(each, str))
    values = part.get("enum", [part["const"]] if "const" in part else None)
    if isinstance(values, list):
        return frozenset(map(_type_of, values))
    for several in ("anyOf", "oneOf"):
        if isinstance(part.get(several), list):
            each = [_types(resolved(branch, root), root, found) for branch in part[several]]
            known = [types for types in each if types is not None]
            return frozenset().union(*known) if all(known) else frozenset()
    return frozenset()


def _type_of(value: Any) -> str:
    first = json.dumps(value)[:1]
    return {'"': "string", "{": "object", "[": "array", "n": "null", "t": "boolean", "f": "boolean"}.get(
        first, "number"
    )
