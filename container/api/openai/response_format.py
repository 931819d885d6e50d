"""`response_format` -> a grammar: OpenAI's forms, and TGI's with `value`."""

from __future__ import annotations

from typing import Any

import msgspec

from container.api.validation import check, show
from container.errors import InvalidRequest
from handler.protocol import Grammar, GrammarKind

_FIELD = "response_format"
_TYPES = ("text", "json_object", "json", "json_schema", "regex")


def grammar_of(response_format: dict[str, Any] | None) -> Grammar | None:
    """The constraint on the answer's text, or None. Raises InvalidRequest.

    A schema is enforced whether `strict` is set or not: constrained decoding cannot do it by halves.
    """
    if response_format is None:
        return None
    kind = response_format.get("type")
    check(f"{_FIELD}.type", f"one of {', '.join(_TYPES)}", kind, kind in _TYPES)
    if kind == "text":
        return None
    if kind == "regex":
        pattern = response_format.get("value")
        check(f"{_FIELD}.value", "a regular expression", pattern, isinstance(pattern, str))
        return Grammar(GrammarKind.REGEX, str(pattern))
    schema = _schema(kind, response_format)
    return Grammar(GrammarKind.JSON_SCHEMA, msgspec.json.encode(schema).decode())


def _schema(kind: Any, response_format: dict[str, Any]) -> Any:
    if kind == "json_schema":
        wrapped = response_format.get("json_schema", response_format.get("value"))
        if not isinstance(wrapped, dict):
            raise InvalidRequest(f"`{_FIELD}.json_schema` must be an object. Given: {show(wrapped)}", param=_FIELD)
        # TGI takes the schema itself as `value` too; it has no key of that name then.
        schema = wrapped.get("schema", wrapped if "value" in response_format else None)
    else:
        schema = response_format.get("value", {"type": "object"})
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except msgspec.DecodeError as exc:
            raise InvalidRequest(f"`{_FIELD}` holds a schema that is not JSON", param=_FIELD) from exc
    if not isinstance(schema, dict | bool):
        raise InvalidRequest(f"`{_FIELD}` must hold a JSON schema. Given: {show(schema)}", param=_FIELD)
    return schema
