"""A schema that cannot be enforced is refused with its place in the request, not in terms of the grammar made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from llguidance import LLMatcher

from container.api.openai.call_grammar import MarkIds, answer_or_calls, forced_calls, text_with_calls
from container.api.openai.chat_request import Chat, parse_chat
from container.api.openai.tool_parsers import FORMS, PLAIN, Form
from container.errors import InvalidRequest, from_engine
from container.settings import Settings
from handler.sampling.grammar_fault import sentence
from handler.seam.protocol import ErrorCode, Grammar, GrammarKind, Rejected

BY_NAME = {form.name: form for form in FORMS}
HERMES = BY_NAME["hermes"]
IDS = MarkIds(lambda _mark: None, lambda _mark: None)
GOOD: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
SECOND = "tools[1].function.parameters"
# Schemas that the web side or the engine refuses, and the part at fault.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"properties": {"a": {"type": "nonsense"}}}, "properties.a"),
    ({"properties": {"a": {"items": {"type": "nonsense"}}}}, "properties.a.items"),
    ({"properties": {"a": {"pattern": "["}, "b": {}}}, "properties.a"),
    ({"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "x"}}}, "$defs.A"),
    ({"properties": {"b": {}, "a": {"not": {}}}}, "properties.a"),
    ({"properties": {"a": {"$ref": "#/nowhere"}}}, "properties.a"),
    ({"properties": {"a": {}}, "required": "a"}, "required"),
]


def chat(tools: list[dict[str, Any]], **fields: Any) -> Chat:
    offered = [{"type": "function", "function": each} for each in tools]
    return parse_chat({"messages": [{"role": "user", "content": "x"}], "tools": offered, **fields}, Settings(), 260)


def refusal(make: Callable[[], Grammar | None]) -> InvalidRequest:
    """What a client sees, whether the web side refuses or the engine."""
    try:
        grammar = make()
    except InvalidRequest as exc:
        return exc
    assert grammar is not None
    source = grammar.source
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        source = LLMatcher.grammar_from_json_schema(source)
    error = LLMatcher.validate_grammar(source)
    assert error
    found = from_engine(Rejected("r", ErrorCode.INVALID, sentence(grammar, error)))
    assert isinstance(found, InvalidRequest)
    assert "\n" not in found.message
    assert "arguments_" not in found.message
    return found


@pytest.mark.parametrize(("schema", "path"), BAD, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("key", ["parameters", "arguments"])
def test_a_bad_schema_of_a_function_names_the_tool_and_the_part(schema: dict[str, Any], path: str, key: str) -> None:
    def make() -> Grammar:
        use = chat([{"name": "f", "parameters": GOOD}, {"name": "g", key: schema}], tool_choice="required").tools
        assert use is not None
        return forced_calls(use, HERMES, IDS)

    place = f"tools[1].function.{key}"
    found = refusal(make)
    assert str(found.param).startswith(place)
    assert found.message.startswith(f"`{place}")
    assert path in found.message


@pytest.mark.parametrize("form", [*FORMS, PLAIN], ids=lambda form: form.name)
@pytest.mark.parametrize("forced", [True, False])
def test_in_every_form_forced_and_strict(form: Form, forced: bool) -> None:
    bad = {"name": "g", "parameters": {"properties": {"a": {"type": "nonsense"}}}, "strict": True}
    use = chat([{"name": "f"}, bad, {"name": "h"}], tool_choice="required" if forced else "auto").tools
    assert use is not None
    found = refusal(lambda: (forced_calls if forced else text_with_calls)(use, form, IDS))
    assert str(found.param).startswith(SECOND)
    assert "nonsense" in found.message


def test_the_eleventh_tool_is_not_the_second() -> None:
    tools: list[dict[str, Any]] = [{"name": f"f{i}"} for i in range(12)]
    tools[11]["parameters"] = {"properties": {"a": {"type": "nonsense"}}}
    use = chat(tools, tool_choice={"type": "function", "function": {"name": "f11"}}).tools
    assert use is not None
    assert str(refusal(lambda: forced_calls(use, BY_NAME["llama-3"], IDS)).param).startswith("tools[11].")


FORMATS: list[tuple[dict[str, Any], str]] = [
    ({"type": "json_schema", "json_schema": {"schema": ...}}, "response_format.json_schema.schema"),
    ({"type": "json_schema", "value": {"name": "n", "schema": ...}}, "response_format.value.schema"),
    ({"type": "json_schema", "value": ...}, "response_format.value"),
    ({"type": "json_object", "schema": ...}, "response_format.schema"),
    ({"type": "json_object", "json_schema": {"schema": ...}}, "response_format.json_schema.schema"),
    ({"type": "json", "value": ...}, "response_format.value"),
]


def filled(value: Any, schema: Any) -> Any:
    if value is ...:
        return schema
    return {key: filled(each, schema) for key, each in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(("form", "place"), FORMATS, ids=str)
@pytest.mark.parametrize("part", [{"type": "nonsense"}, {"pattern": "["}, {"type": "number", "minimum": 1e30}], ids=str)
def test_a_bad_schema_of_the_answer_names_its_place(form: dict[str, Any], place: str, part: dict[str, Any]) -> None:
    bad = filled(form, {"properties": {"a": part}})

    def alone() -> Grammar | None:
        found = chat([], response_format=bad).constraint
        return None if found is None else found.grammar

    assert str(refusal(alone).param).startswith(place)

    def beside() -> Grammar | None:
        found = chat([{"name": "f"}], response_format=bad)
        assert found.constraint is not None
        assert found.tools is not None
        return answer_or_calls(found.constraint.grammar, found.tools, HERMES, IDS)

    assert str(refusal(beside).param).startswith(place)


def test_a_bad_regex_names_its_place() -> None:
    found = chat([], response_format={"type": "regex", "value": "(a+"}).constraint
    assert found is not None
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(found.grammar.source))
    assert sentence(found.grammar, error).startswith("`response_format.value` is not valid: invalid regex")


@pytest.mark.parametrize(
    ("form", "schema", "words"),
    [
        (HERMES, {"properties": {"a": {"type": "number", "minimum": 1e30}}}, "`minimum`"),
        (HERMES, {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "leads to itself"),
        (BY_NAME["qwen3-coder"], {"properties": {"a": {"type": "string", "pattern": "x"}}}, "`pattern` of g.a"),
        (BY_NAME["pythonic"], {"properties": {"a-b": {"type": "string"}}}, "Python identifiers"),
    ],
)
def test_what_is_refused_before_the_engine_names_the_tool_too(form: Form, schema: Any, words: str) -> None:
    use = chat([{"name": "f"}, {"name": "g", "parameters": schema}], tool_choice="required").tools
    assert use is not None
    with pytest.raises(InvalidRequest) as caught:
        forced_calls(use, form, IDS)
    assert caught.value.param == SECOND
    assert caught.value.message.startswith(f"`{SECOND}`: ")
    assert words in caught.value.message


def test_a_grammar_that_names_no_place_is_a_grammar() -> None:
    """TGI's words."""
    grammar = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "nonsense"}')
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(grammar.source))
    assert sentence(grammar, error) == "grammar is not valid: Invalid type: nonsense"
    rejected = Rejected("r", ErrorCode.INVALID, sentence(grammar, error))
    assert from_engine(rejected).param is None
