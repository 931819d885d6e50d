"""`response_format` -> a grammar: OpenAI's forms, and TGI's with `value`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from container.api.bounds import shown
from container.api.schema.enforceable_schema import enforceable
from container.api.validation import at_place, show
from container.errors import InvalidRequest
from handler.seam.protocol import Grammar, GrammarKind

_FIELD = "response_format"
ALLOWED = {
    "response_format.type": "one of text, json_object, json, json_schema, regex",
    "response_format.value": "what its type asks for",
}
_IN_A_STRING = {
    "type": "string",
    "contentMediaType": "application/json",
    "contentSchema": {"anyOf": [{"type": "object"}, {"const": True}]},
}
# The schema itself, or a JSON string that contains it (TGI). Nothing fits the schema `false`.
SchemaField = Annotated[Any, shown(anyOf=[{"type": "object"}, {"const": True}, _IN_A_STRING])]


class FormatSchema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schema with a name. It is always enforced, whether `strict` is set or not."""

    schema: SchemaField
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any text. Null counts as absent."""

    schema: None = None
    json_schema: None = None


class _ObjectFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Any JSON object (OpenAI), or one that fits `value` (TGI), `schema` (llama.cpp) or `json_schema.schema`."""

    value: SchemaField | UnsetType = UNSET
    schema: SchemaField | UnsetType | None = UNSET
    json_schema: FormatSchema | None = None

    def __post_init__(self) -> None:
        """Raises ValueError; msgspec adds the path to its message."""
        if len(self.schemas) > 1:
            raise ValueError("must have one of `value`, `schema` and `json_schema`")

    @property
    def schemas(self) -> list[Any]:
        """The schemas given, under any name."""
        named = [] if self.json_schema is None else [self.json_schema.schema]
        return [
            *(each for each in (self.value, UNSET if self.schema is None else self.schema) if each is not UNSET),
            *named,
        ]


class JsonObjectFormat(_ObjectFormat, frozen=True, tag="json_object"):
    """OpenAI's name."""


class JsonFormat(_ObjectFormat, frozen=True, tag="json"):
    """TGI's name for the same."""


class JsonSchemaFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that fits `json_schema.schema` (OpenAI); or `value.schema`, or the schema that is `value` (TGI)."""

    json_schema: FormatSchema | None = None
    value: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError; msgspec adds the path to its message."""
        if self.json_schema is None and self.value is None:
            raise ValueError("must have `json_schema`")


class RegexFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="regex"):
    """Text that matches a regular expression from its beginning to its end (TGI)."""

    value: str


_ONE_SCHEMA = {
    "if": {"properties": {"type": {"const": "json_schema"}}},
    "then": {
        "anyOf": [
            {"required": ["json_schema"], "properties": {"json_schema": {"type": "object"}}},
            {"required": ["value"], "properties": {"value": {"type": "object"}}},
        ]
    },
}
ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonFormat | JsonSchemaFormat | RegexFormat, shown(**_ONE_SCHEMA)
]


def grammar_of(response_format: ResponseFormat | None) -> Grammar | None:
    """The constraint on the answer's text, or None. Raises InvalidRequest."""
    if response_format is None or isinstance(response_format, TextFormat):
        return None
    if isinstance(response_format, RegexFormat):
        return Grammar(GrammarKind.REGEX, response_format.value, {"": f"{_FIELD}.value"})
    name, found = _schema(response_format)
    place = f"{_FIELD}.{name}" if name else _FIELD
    return schema_grammar(read_schema(found, _FIELD), place)


def schema_grammar(schema: Any, place: str) -> Grammar:
    """JSON that fits the schema that the request has at `place`. Raises InvalidRequest."""
    with at_place(place):
        source = msgspec.json.encode(enforceable(schema)).decode()
    return Grammar(GrammarKind.JSON_SCHEMA, source, {"": place})


def _schema(response_format: JsonSchemaFormat | _ObjectFormat) -> tuple[str, Any]:
    """Where the format has its schema, and the schema."""
    if response_format.json_schema is not None:
        return "json_schema.schema", response_format.json_schema.schema
    value = response_format.value
    if isinstance(response_format, JsonSchemaFormat):
        # In TGI, `value` may also be the schema itself; it has no `schema` key then.
        return ("value.schema", value["schema"]) if value and "schema" in value else ("value", value)
    if value is not UNSET:
        return "value", value
    return ("schema", response_format.schema) if response_format.schemas else ("", {"type": "object"})


def read_schema(value: Any, field: str) -> Any:
    """A JSON schema, sent as a value or as JSON text. Raises InvalidRequest."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise InvalidRequest(f"`{field}` holds a schema that is not JSON", param=field) from exc
    if not isinstance(value, dict | bool):
        raise InvalidRequest(f"`{field}` must hold a JSON schema. Given: {show(value)}", param=field)
    # The engine lays out objects only; both mean any value.
    return {} if value is True else value
