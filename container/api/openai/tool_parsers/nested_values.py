"""Objects and arrays written as tags inside tags, `<a>1</a><b>2</b>` and `<item>1</item><item>2</item>`."""

from __future__ import annotations

import json
from typing import Any

from container.api.openai.tool_parsers.form import Tags
from container.api.openai.tool_parsers.typed_value import as_json
from container.api.schema.schema_types import property_of, types_of_schema

_ITEM = "item"
_MAX_DEPTH = 32


def nested_as_json(text: str, tags: Tags, schema: Any, depth: int = 0) -> str:
    """The tags as an object, or as an array if all are items. Text that is neither has the type of the schema.

    References of a nested schema are not followed: its values are read as JSON or text then.
    """
    members = _members(text.strip(), tags) if depth < _MAX_DEPTH else None
    part = schema if isinstance(schema, dict) else {}
    if not members:
        types = types_of_schema(part, part)
        return json.dumps(text, ensure_ascii=False) if types == {"string"} else as_json(text, types)
    if all(key == _ITEM for key, _ in members) and "object" not in types_of_schema(part, part):
        items = [nested_as_json(value, tags, part.get("items", True), depth + 1) for _, value in members]
        return f"[{', '.join(items)}]"
    values = [(key, nested_as_json(value, tags, property_of(part, key), depth + 1)) for key, value in members]
    return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in values) + "}"


def _members(text: str, tags: Tags) -> list[tuple[str, str]] | None:
    """Key and value of each tag; None if the text is not a sequence of tags."""
    found: list[tuple[str, str]] = []
    index = 0
    while index < len(text):
        name_end = text.find(tags.value_open, index + len(tags.key_open))
        if not text.startswith(tags.key_open, index) or name_end < 0:
            return None
        key = text[index + len(tags.key_open) : name_end]
        closing = tags.value_close.replace("{key}", key)
        value_start, value_end = name_end + len(tags.value_open), text.find(closing, name_end)
        if value_end < 0:
            return None
        found.append((key.strip(), text[value_start:value_end]))
        index = value_end + len(closing)
        while text[index : index + 1].isspace():
            index += 1
    return found
