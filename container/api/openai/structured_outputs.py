"""The constraint on an answer under each of its names: OpenAI's, TGI's, vLLM's and SGLang's fields -> one grammar."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from container.api.bounds import shown
from container.api.ignored_fields import note_ignored
from container.api.openai.gbnf import lark_of
from container.api.openai.response_format import ResponseFormat, SchemaField, TextFormat, grammar_of, read_schema
from container.api.openai.token_fields import TokenFields
from container.api.schema.enforceable_schema import enforceable
from container.api.validation import at_place, check
from container.errors import InvalidRequest
from handler.seam.protocol import Grammar, GrammarKind

_PARTS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_Choices = Annotated[list[Annotated[str, shown(minLength=1)]], shown(minItems=1)]
_ONE_KIND = {
    "anyOf": [
        {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
        for name in ("json", "regex", "choice", "grammar", "json_object")
    ]
}
ALLOWED = {
    "structured_outputs.structural_tag": "absent: structural tags are not supported; send `tools` or a `grammar`",
}


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """vLLM's constraint: exactly one kind. The two options after `json_object` and `whitespace_pattern` shape JSON."""

    json: SchemaField | None = None
    regex: str | None = None
    choice: _Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: str | None = None
    structural_tag: None = None

    def __post_init__(self) -> None:
        """Raises ValueError; msgspec adds the path to its message."""
        kinds = (self.json, self.regex, self.choice, self.grammar, self.json_object)
        if all(kind is None for kind in kinds):
            raise ValueError("must have one of `json`, `regex`, `choice`, `grammar` and `json_object`")


class ConstraintFields(TokenFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The names of a constraint beside `response_format`: vLLM's today, vLLM's before 0.12, SGLang's.

    `guided_decoding_backend` changes no answer.
    """

    structured_outputs: Annotated[StructuredOutputs | None, shown(**{"if": {"type": "object"}, "then": _ONE_KIND})] = (
        None
    )
    guided_json: SchemaField | None = None
    guided_json_object: bool | None = None
    guided_regex: str | None = None
    guided_choice: _Choices | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    guided_decoding_backend: str | None = None
    json_schema: SchemaField | None = None
    regex: str | None = None
    ebnf: str | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar and the field that asks for it."""

    field: str
    grammar: Grammar


def constraint_of(request: ConstraintFields, response_format: ResponseFormat | None) -> Constraint | None:
    """The one constraint of the request, or None. Raises InvalidRequest, also for two of them."""
    found = list(_constraints(request))
    if response_format is not None and not isinstance(response_format, TextFormat):
        found.append(("response_format", "response_format", response_format))
    if len(found) > 1:
        names = " and ".join(f"`{field}`" for field, _, _ in found[:2])
        raise InvalidRequest(f"{names} exclude each other: an answer has one constraint", param=found[1][0])
    layout = _layout(request)
    if layout.field and (not found or found[0][1] not in _JSON_KINDS):
        note_ignored(layout.field, "it shapes JSON, which nothing asks for")
    for field, kind, value in found:
        grammar = _of_format(value, layout) if kind == "response_format" else _grammar(field, kind, value, layout)
        if grammar is None:
            return None
        return Constraint(field, grammar if grammar.places else msgspec.structs.replace(grammar, places={"": field}))
    return None


def _of_format(response_format: ResponseFormat, layout: _Layout) -> Grammar | None:
    found = grammar_of(response_format)
    if found is None or found.kind is not GrammarKind.JSON_SCHEMA:
        return found
    return msgspec.structs.replace(_laid_out(msgspec.json.decode(found.source), layout), places=found.places)


def _constraints(request: ConstraintFields) -> Iterator[tuple[str, str, Any]]:
    """The field, kind and value of each constraint."""
    nested = request.structured_outputs
    given = [
        *((f"structured_outputs.{kind}", kind, getattr(nested, kind, None)) for kind in _KINDS),
        *((field, kind, getattr(request, field)) for field, kind in _FIELDS.items()),
    ]
    for field, kind, value in given:
        if value is not None and (kind != "json_object" or value):
            yield field, kind, value


_JSON_KINDS = frozenset(["json", "json_object", "response_format"])
_KINDS = ("json", "regex", "choice", "grammar", "json_object")
_FIELDS = {
    "guided_json": "json",
    "guided_json_object": "json_object",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "json_schema": "json",
    "regex": "regex",
    "ebnf": "grammar",
}


@dataclass(frozen=True, slots=True)
class _Layout:
    """How JSON is written: `options` are llguidance's, empty for the usual layout. `field` asks for them."""

    options: dict[str, Any]
    closes: bool
    field: str


def _layout(request: ConstraintFields) -> _Layout:
    nested = request.structured_outputs
    closes = nested is not None and bool(nested.disable_additional_properties)
    if nested is not None and nested.disable_any_whitespace:
        return _Layout({"whitespace_flexible": False}, closes, "structured_outputs.disable_any_whitespace")
    if nested is not None and nested.whitespace_pattern is not None:
        return _Layout(
            {"whitespace_pattern": nested.whitespace_pattern}, closes, "structured_outputs.whitespace_pattern"
        )
    if request.guided_whitespace_pattern is not None:
        options = {"whitespace_pattern": request.guided_whitespace_pattern}
        return _Layout(options, closes, "guided_whitespace_pattern")
    return _Layout({}, closes, "structured_outputs.disable_additional_properties" if closes else "")


def _grammar(field: str, kind: str, value: Any, layout: _Layout) -> Grammar:
    match kind:
        case "regex":
            return Grammar(GrammarKind.REGEX, value)
        case "choice":
            check(field, "non-empty strings, at least one", value, bool(value) and all(value))
            return Grammar(GrammarKind.LARK, "start: " + " | ".join(map(_literal, dict.fromkeys(value))))
        case "grammar":
            return Grammar(GrammarKind.LARK, lark_of(value, field))
        case _:
            schema = {"type": "object"} if kind == "json_object" else read_schema(value, field)
            with at_place(field):
                return _laid_out(enforceable(_closed(schema) if layout.closes else schema), layout)


def _laid_out(schema: Any, layout: _Layout) -> Grammar:
    """The grammar of an enforceable schema."""
    if not layout.options or not isinstance(schema, dict):
        return Grammar(GrammarKind.JSON_SCHEMA, msgspec.json.encode(schema).decode())
    laid_out = json_text.dumps({**schema, "x-guidance": layout.options}, ensure_ascii=False)
    return Grammar(GrammarKind.LARK, f"start: %json {laid_out}")


def _closed(schema: Any) -> Any:
    """Every object that names properties without others, as vLLM closes them."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: {name: _closed(part) for name, part in value.items()}
        if key in _PARTS and isinstance(value, dict)
        else value
        if key in {"enum", "const", "default", "examples"}
        else _closed(value)
        for key, value in schema.items()
    }
    if not {"properties", "patternProperties"}.isdisjoint(found):
        found.setdefault("additionalProperties", False)
    return found


def _literal(text: str) -> str:
    return json_text.dumps(text, ensure_ascii=False)
