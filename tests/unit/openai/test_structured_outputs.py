"""Constraints under each name that clients use, as the engine's own grammar takes them."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from container.api import ignored_fields
from container.api.openai.completion_request import CompletionRequest
from container.api.openai.gbnf import lark_of
from container.api.openai.structured_outputs import ALLOWED, constraint_of
from container.api.validation import convert
from container.errors import InvalidRequest
from handler.seam.protocol import Grammar, GrammarKind
from tests.support.grammars import takes

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
GBNF = 'root ::= "yes" | no\nno ::= "no" [!?]{1,2}'
LARK = '?start: yes | no\nyes: "yes"\nno: "no" /[!?]{1,2}/'
JSON_GBNF = r"""
# llama.cpp's own
root ::= object
value ::= object | array | string | number
  | "true" | "false" | "null"
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def grammar(**fields: Any) -> Grammar:
    request = convert({"prompt": "x", **fields}, CompletionRequest, ALLOWED)
    found = constraint_of(request, request.response_format)
    assert found is not None
    assert found.field.split(".")[0] in fields
    return found.grammar


def names(kind: str, value: Any) -> list[dict[str, Any]]:
    """The fields that say the same, by vLLM's name of the kind."""
    others = {
        "json": ("guided_json", "json_schema"),
        "json_object": ("guided_json_object",),
        "regex": ("guided_regex", "regex"),
        "choice": ("guided_choice",),
        "grammar": ("guided_grammar", "ebnf"),
    }
    return [{"structured_outputs": {kind: value}}, *({name: value} for name in others[kind])]


@pytest.mark.parametrize(
    ("kind", "value", "fits", "others"),
    [
        ("json", SCHEMA, ['{"a": 1}', '{"a":1}'], ['{"a": 1, "b": 2}', '{"a": "x"}', "1", "{}"]),
        ("json", json.dumps(SCHEMA), ['{"a": 1}'], ["{}"]),
        ("json", True, ["1", "[]"], ["x"]),
        ("json_object", True, ["{}", '{"x": [1]}'], ["[]", "1"]),
        ("regex", "[ab]{2}|é", ["ab", "é"], ["a", "abc", "xab"]),
        ("choice", ["yes", 'no "way"', "<|im_end|>", "\\n", "yes"], ["yes", 'no "way"', "<|im_end|>"], ["no", ""]),
        ("choice", ["a", "ab", "abc"], ["a", "ab", "abc"], ["abcd", "b"]),
        ("grammar", GBNF, ["yes", "no!", "no?!"], ["no", "no!!!"]),
        ("grammar", LARK, ["yes", "no!", "no?!"], ["no", "no!!!"]),
    ],
)  # fmt: skip
def test_a_constraint_has_many_names(kind: str, value: Any, fits: list[str], others: list[str]) -> None:
    for fields in names(kind, value):
        found = grammar(**fields)
        assert {text: takes(found, text) for text in [*fits, *others]} == (
            dict.fromkeys(fits, True) | dict.fromkeys(others, False)
        )


@pytest.mark.parametrize(
    ("fields", "fits", "others"),
    [
        ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, ['{"a":1}'], ['{"a": 1}']),
        ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " {2}"}}, ['{  "a"  :  1  }'], ['{ "a":1}']),
        ({"guided_json": SCHEMA, "guided_whitespace_pattern": " ?"}, ['{ "a":1}'], ['{\n"a": 1}']),
        ({"structured_outputs": {"json": SCHEMA}, "guided_whitespace_pattern": " ?"}, ['{ "a":1}'], ['{\n"a": 1}']),
        ({"response_format": {"type": "json_object"}, "guided_whitespace_pattern": " ?"}, ['{ "a":1}'], ['{\n"a": 1}']),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
          "guided_whitespace_pattern": " ?"}, ['{ "a":1}'], ['{\n"a": 1}', "{}"]),
        ({"structured_outputs": {"json_object": True, "disable_any_whitespace": True}}, ['{"b":[1]}'], ['{"b": 1}']),
        ({"structured_outputs": {"json": {"allOf": [SCHEMA]}, "disable_additional_properties": True}},
         ['{"a": 1}'], ['{"a": 1, "b": 1}']),
        ({"structured_outputs": {"json": SCHEMA, "disable_additional_properties": False}}, ['{"a": 1}'], ["{}"]),
        ({"guided_json": SCHEMA, "guided_decoding_backend": "outlines"}, ['{"a": 1}'], ["{}"]),
        ({"structured_outputs": {"regex": "a", "json_object": False}, "response_format": {"type": "text"}},
         ["a"], ["b"]),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
         ['{"a": 1}'], ["{}"]),
    ],
)  # fmt: skip
def test_options_shape_the_json(fields: dict[str, Any], fits: list[str], others: list[str]) -> None:
    found = grammar(**fields)
    assert all(takes(found, text) for text in fits)
    assert not any(takes(found, text) for text in others)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"guided_regex": "a", "guided_choice": ["b"]}, "`guided_regex` and `guided_choice` exclude each other"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "`structured_outputs.json` and `structured_outputs.reg"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "`regex` and `response_format` exclude"),
        ({"ebnf": GBNF, "structured_outputs": {"choice": ["a"]}}, "`structured_outputs.choice` and `ebnf` exclude"),
        ({"structured_outputs": {}}, "must have one of `json`, `regex`, `choice`, `grammar` and `json_object`"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "must have one of `json`"),
        ({"structured_outputs": {"regex": "a", "rgex": "b"}}, "unknown field `rgex`"),
        ({"structured_outputs": {"regex": "a", "structural_tag": "{}"}}, "structural tags are not supported"),
        ({"structured_outputs": {"choice": []}}, "`structured_outputs.choice` must be non-empty strings, at least one"),
        ({"guided_choice": ["a", ""]}, "`guided_choice` must be non-empty strings"),
        ({"guided_json": "{"}, "`guided_json` holds a schema that is not JSON"),
        ({"json_schema": "3"}, "`json_schema` must hold a JSON schema. Given: 3"),
        ({"structured_outputs": {"json": [1]}}, "`structured_outputs.json` must hold a JSON schema. Given: array"),
        ({"guided_json": {"$ref": "#"}}, "no value fits the JSON schema"),
        ({"guided_grammar": " "}, "`guided_grammar` must be a grammar of 1 to 65536 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=r"`|no value") as caught:
        grammar(**fields)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("source", "fits", "others"),
    [
        (JSON_GBNF, ['{"a": [1, 2.5e-3, "xé\\n"]}', "{}", '{"a": {"b": null}}'], ['{"a": "x\n"}', "[]", "{"]),
        ('root ::= "ab" "c" | [a-z] [a-z] [a-z]', ["abx", "abc", "zzz"], ["ab", "abcd"]),
        ('root ::= a-b_C.d\na-b_C.d ::= "x"', ["x"], ["y"]),
        ("root ::= [^\\n]+ [\\n]", ["abé\n"], ["abé", "\n"]),
        ("root ::= [a-] [-a] [a\\-z] [\\]\\[^]", ["---]", "aaz^", "-a-["], ["-b-]", "---a"]),
        ("root ::= [д-я] . \"\\u00e9\\x41\"", ["ж\néA", "дxéA"], ["bxéA"]),
        ('root ::= "(" root? ")"', ["()", "((()))"], ["(()", "", "())"]),
        ('root ::= item (", " item){2}\nitem ::= "\\"" [a-z]* "\\""', ['"a", "", "b"'], ['"a", "b"']),
        ("root ::= ( | \"a\" |\n \"b\" ) \"!\" # the end", ["!", "a!", "b!"], ["", "ab!"]),
        ('root::="a"|"b"', ["a", "b"], ["ab"]),
        ('root ::= "<|im_end|>"', ["<|im_end|>"], ["<"]),
    ],
)  # fmt: skip
def test_gbnf_means_what_llama_cpp_says(source: str, fits: list[str], others: list[str]) -> None:
    found = Grammar(GrammarKind.LARK, lark_of(source, "ebnf"))
    assert {text: takes(found, text) for text in [*fits, *others]} == (
        dict.fromkeys(fits, True) | dict.fromkeys(others, False)
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('start ::= "a"', "there is no rule `root`"),
        ("root ::= other", "there is no rule `other`"),
        ('root ::= "a"\nroot ::= "b"', "the rule `root` is written twice"),
        ('root ::= ("a"', "a bracket is not closed"),
        ('root ::= "a")', "a bracket is closed that is not open"),
        ("root ::= *", "`*` must follow something"),
        ('root ::= "a"\nx ::= "b', "line 2 cannot be read"),
        ("root ::= []", "a set of characters is empty"),
        ('root ::= "a"{3,2}', "is no number of times up to 10000"),
        ('root ::= "a"{99999}', "is no number of times up to 10000"),
        ('root ::= "\\uD800"', "is no character"),
        ('"a"\nroot ::= "b"', "it must begin with a rule"),
        ("root ::= x\n" + "x ::= " * 20_000, "must be a grammar of 1 to 65536 bytes"),
    ],
)  # fmt: skip
def test_gbnf_that_is_wrong_is_refused_with_the_reason(source: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        lark_of(source, "ebnf")
    assert words in str(caught.value)
    assert caught.value.param == "ebnf"


def test_a_long_chain_of_rules_is_one_terminal() -> None:
    chain = "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1}\n" for i in range(3000)) + 'a3000 ::= "x"'
    assert takes(Grammar(GrammarKind.LARK, lark_of(chain, "ebnf")), "x")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
        ({"guided_whitespace_pattern": " ", "guided_regex": "a"}, "guided_whitespace_pattern"),
        ({"structured_outputs": {"choice": ["a"], "whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"regex": "a", "disable_any_whitespace": True}},
         "structured_outputs.disable_any_whitespace"),
        ({"structured_outputs": {"regex": "a", "disable_additional_properties": True}},
         "structured_outputs.disable_additional_properties"),
    ],
)  # fmt: skip
def test_a_layout_without_json_is_logged(
    fields: dict[str, Any], field: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ignored_fields, "_logged", set())
    caplog.set_level(logging.INFO, "container.api.ignored_fields")
    request = convert({"prompt": "x", **fields}, CompletionRequest, ALLOWED)
    constraint_of(request, request.response_format)
    assert [record.getMessage() for record in caplog.records] == [
        f"`{field}` is ignored: it shapes JSON, which nothing asks for"
    ]


@pytest.mark.parametrize("schema", [{"type": "strin"}, {"$ref": "#/$defs/no"}, {"$ref": "#"}])
def test_a_faulty_schema_is_refused_at_its_place(schema: dict[str, Any]) -> None:
    for fields in names("json", schema):
        with pytest.raises(InvalidRequest) as caught:
            grammar(**fields)
        place = next(iter(fields)) + (".json" if "structured_outputs" in fields else "")
        assert caught.value.param == place
        assert str(caught.value).startswith(f"`{place}`: ")
