"""JSON schemas as clients write them, held by the grammar engine: whatever it lets through fits the schema as given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from tokenizers import Tokenizer

from container.api.schema.enforceable_schema import enforceable
from handler.sampling.grammar import GrammarCompiler, GrammarError
from handler.seam.protocol import Grammar, GrammarKind
from tests.support import tiny_models

Takes = Callable[[Any, Any], bool]

TEXT = {"type": "string"}
INTEGER = {"type": "integer"}
RECORD = {"type": "object", "additionalProperties": INTEGER}
NODE = {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}}, "required": ["a"]}
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 5, 10, -1, 1.5, [], [1], ["a"], ["a", "b"], ["a", 1], [1, 2, 3], [None]),
    *("", "a", "b", "ab", "xay", "abc", "1", "\u00e9", 'q"x', "2024-01-01", "a@b.co", "127.0.0.1"),
    *({}, {"a": "x"}, {"a": 1}, {"a": None}, {"a": {"a": None}}, {"b": 1}, {"a": "x", "b": 1}, {"a": "x", "b": "y"}),
    *({"x1": 1}, {"x1": "s"}, {'\u00e9"q': "x"}, {"": "x"}, {"kind": "a"}, {"kind": "b"}, {"kind": "b", "x": "y"}),
]


@pytest.fixture(scope="module")
def takes(tiny_llama: Path) -> Takes:
    """Whether the engine lets a model write a value, and end, under a schema."""
    file = tiny_llama / "tokenizer.json"
    compiler = GrammarCompiler(file, tiny_models.VOCAB_SIZE, {tiny_models.EOS_ID})
    tokenizer = Tokenizer.from_file(str(file))

    def takes(schema: Any, value: Any) -> bool:
        source = json.dumps(enforceable(schema))
        constraint = compiler.submit(Grammar(GrammarKind.JSON_SCHEMA, source)).result()
        ids = tokenizer.encode(json.dumps(value, ensure_ascii=False), add_special_tokens=False).ids
        for i, token_id in enumerate(ids):
            if not constraint.mask()[token_id]:
                return False
            if constraint.accept(token_id):
                return i == len(ids) - 1
        return bool(constraint.mask()[tiny_models.EOS_ID])

    return takes


@pytest.mark.parametrize(
    ("schema", "fitting"),
    [
        # A pattern is searched for; only what it anchors is anchored.
        (TEXT | {"pattern": "a"}, ["a", "ab", "xay", "abc", "a@b.co"]),
        (TEXT | {"pattern": "^a"}, ["a", "ab", "abc", "a@b.co"]),
        (TEXT | {"pattern": "b$"}, ["b", "ab"]),
        (TEXT | {"pattern": "^ab$"}, ["ab"]),
        (TEXT | {"pattern": "^(a|b)$"}, ["a", "b"]),
        (TEXT | {"pattern": r"\d"}, ["1", "2024-01-01", "127.0.0.1"]),
        (TEXT | {"pattern": "a", "maxLength": 1}, ["a"]),
        (TEXT | {"pattern": "^2", "format": "date"}, ["2024-01-01"]),
        ({"type": "object", "patternProperties": {"1": INTEGER}, "additionalProperties": False}, [{}, {"x1": 1}]),
        # JSON knows one kind of number.
        ({"enum": [1.0]}, [1]),
        ({"type": "integer", "enum": [1.0, 2.0, "a"]}, [1, 2]),
        ({"const": 5.0}, [5]),
        ({"enum": [0, False, None, "", [1], {"a": 1}]}, [None, False, 0, [1], "", {"a": 1}]),
        ({"enum": ["a", "ab"], "maxLength": 1}, ["a"]),
        # Flags and annotations that forbid nothing.
        ({"type": "array", "items": TEXT, "uniqueItems": False}, [[], ["a"], ["a", "b"]]),
        ({"type": "array", "items": TEXT, "uniqueItems": True, "maxItems": 1}, [[], ["a"]]),
        ({"type": "integer", "nullable": True, "x-order": 1, "default": "z", "format": "int32"}, [0, 1, 2, 5, 10, -1]),
        ({"type": "array", "x-guidance": {"whitespace_pattern": "a*"}, "maxItems": 0}, [[]]),
        # References, with and without neighbours.
        ({"$ref": "#/$defs/A", "maxLength": 1, "title": "T", "$defs": {"A": TEXT}}, ["", "a", "b", "1", "\u00e9"]),
        ({"$ref": "#/$defs/N", "$defs": {"N": NODE}}, [{"a": None}, {"a": {"a": None}}]),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}, [1]),
        # Branches.
        ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, [None, 0, 1, 2, 5, 10, -1]),
        (
            {
                "oneOf": [
                    {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]},
                    {"type": "object", "properties": {"kind": {"const": "b"}, "x": TEXT}, "required": ["kind"]},
                ]
            },
            [{"kind": "a"}, {"kind": "b"}, {"kind": "b", "x": "y"}],
        ),
        ({"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 5}]}, [2, 5]),
        ({"type": "string", "anyOf": [{"minLength": 3}, {"maxLength": 0}]}, None),
        # Containers.
        ({"type": "array", "prefixItems": [TEXT, {"type": "integer"}], "items": False}, [[], ["a"], ["a", 1]]),
        ({"type": "array", "prefixItems": [TEXT], "unevaluatedItems": False}, [[], ["a"]]),
        (RECORD | {"propertyNames": {"enum": ["a", "b"]}}, [{}, {"a": 1}, {"b": 1}]),
        (RECORD | {"propertyNames": {"pattern": "^x"}}, [{}, {"x1": 1}]),
        (RECORD | {"propertyNames": TEXT}, [{}, {"a": 1}, {"b": 1}, {"x1": 1}]),
        ({"type": "object", "properties": {'\u00e9"q': TEXT}, "required": ['\u00e9"q']}, [{'\u00e9"q': "x"}]),
        ({"type": "object", "properties": {"": TEXT}, "required": [""]}, [{"": "x"}]),
        ({"type": "object", "properties": {"a": TEXT, "b": False}}, [{}, {"a": "x"}]),
        ({"enum": [{"a": 1}, {"b": 1}], "properties": {"a": {"type": "integer"}}}, [{"a": 1}, {"b": 1}]),
        ({"type": ["string", "integer"], "maxLength": 0, "minimum": 5}, [5, 10, ""]),
        (True, None),
    ],
)  # fmt: skip
def test_the_engine_lets_through_what_fits(schema: Any, fitting: list[Any] | None, takes: Takes) -> None:
    """None: all that fits."""
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    found = [value for value in VALUES if takes(schema, value)]
    assert all(map(validator.is_valid, found))
    assert found == (list(filter(validator.is_valid, VALUES)) if fitting is None else fitting)


@pytest.mark.parametrize("count", [2000])
def test_thousands_of_values(count: int, takes: Takes) -> None:
    schema = {"enum": [f"value {i}" for i in range(count)]}
    assert takes(schema, f"value {count - 1}")
    assert not takes(schema, f"value {count}")


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"oneOf": [{"type": "object", "properties": {name: {}}, "required": [name]} for name in "ab"]},
        {"allOf": [TEXT, {"type": "integer"}]},
        {"type": "string", "pattern": "^(?=a)"},
        {"$ref": "https://example.com/x.json"},
        {"const": 5, "maximum": 2},
    ],
)
def test_what_only_the_engine_can_tell_is_refused_in_one_line(schema: Any, takes: Takes) -> None:
    with pytest.raises(GrammarError, match=r"^grammar is not valid: [^\n]+$"):
        takes(schema, 1)
