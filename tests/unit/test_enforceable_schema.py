"""Schemas as clients write them: annotations assert nothing, equal values are equal, and some fit nothing."""

from __future__ import annotations

from typing import Any

import pytest

from container.api.schema.enforceable_schema import FORMATS, enforceable
from container.errors import InvalidRequest

TEXT = {"type": "string"}


@pytest.mark.parametrize("name", ["path", "file-path", "password", "binary", "uuid4", "uri-reference", "regex", ""])
def test_an_unknown_format_is_an_annotation(name: str) -> None:
    part = TEXT | {"format": name}
    assert enforceable(part) == TEXT
    for around in (
        lambda each: {"type": "object", "additionalProperties": each},
        lambda each: {"type": "array", "items": each},
        lambda each: {"anyOf": [each, {"type": "null"}]},
        lambda each: {"$defs": {"format": each}, "$ref": "#/$defs/format"},
        lambda each: {"type": "object", "patternProperties": {"format": each}},
    ):
        assert enforceable(around(part)) == around(TEXT)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_known_format_is_kept(name: str) -> None:
    assert enforceable(TEXT | {"format": name}) == TEXT | {"format": name}


def test_data_and_names_are_no_keywords() -> None:
    data = {"format": "path", "uniqueItems": False, "oneOf": []}
    named = dict.fromkeys(data, TEXT)
    schema = {"type": "object", "properties": named | {"x": {"const": data}}, "additionalProperties": False}
    assert enforceable(schema) == schema


def test_what_asserts_nothing_is_left_out_and_equal_numbers_are_one() -> None:
    assert enforceable({"type": "array", "uniqueItems": False}) == {"type": "array"}
    assert enforceable({"type": "array", "uniqueItems": True, "maxItems": 1.0}) == {"type": "array", "maxItems": 1}
    found = enforceable({"anyOf": [{"enum": [1.0, 0.5, -2.0, "1.0", True]}, {"const": 3.0}]})
    assert str(found) == "{'anyOf': [{'enum': [1, 0.5, -2, '1.0', True]}, {'const': 3}]}"


def refers(**part: Any) -> dict[str, Any]:
    return {"$ref": "#/$defs/A", "$defs": {"A": part}}


ITSELF = {"$ref": "#/$defs/A"}
ENDLESS = [
    {"$ref": "#"},
    refers(**ITSELF),
    refers(anyOf=[ITSELF]),
    refers(oneOf=[ITSELF, {"allOf": [ITSELF]}]),
    refers(allOf=[TEXT, ITSELF]),
    {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
    refers(type="object", properties={"a": ITSELF}, required=["a"]),
    refers(type="array", items=ITSELF, minItems=1),
    refers(type="array", prefixItems=[TEXT, ITSELF], minItems=2),
]
ENDING = [
    refers(anyOf=[ITSELF, {"type": "null"}]),
    refers(type="object", properties={"a": ITSELF}),
    refers(type=["object", "null"], properties={"a": ITSELF}, required=["a"]),
    refers(type="array", items=ITSELF),
    refers(type="array", prefixItems=[TEXT, ITSELF], minItems=1),
    refers(type="object", properties={"a": {"anyOf": [ITSELF, TEXT]}}, required=["a"]),
    {"type": "object", "properties": {"a": ITSELF, "b": ITSELF}, "required": ["a", "b"], "$defs": {"A": TEXT}},
]


@pytest.mark.parametrize("schema", ENDLESS)
def test_a_reference_without_end_is_refused(schema: Any) -> None:
    with pytest.raises(
        InvalidRequest, match=r"no value fits the JSON schema: .*a reference leads to itself without end"
    ):
        enforceable(schema)


@pytest.mark.parametrize("schema", ENDING)
def test_a_reference_that_ends_is_taken(schema: Any) -> None:
    enforceable(schema)


@pytest.mark.timeout(60)
def test_a_part_named_exponentially_often_is_examined_in_time() -> None:
    """It runs on the event loop. Values, types and branches are each looked for."""
    parts = {f"p{i}": {"allOf": [{"$ref": f"#/$defs/p{i + 1}"}] * 2} for i in range(200)}
    enforceable({"$ref": "#/$defs/p0", "$defs": parts | {"p200": TEXT}})
    pairs: dict[str, Any] = {"p30": TEXT, "q30": TEXT}
    for i in range(30):
        for kind in "pq":
            below = {"$ref": f"#/$defs/{kind}{i + 1}"}
            pairs[f"{kind}{i}"] = {"type": "object", "properties": {"a": below, "b": below}, "required": ["a", "b"]}
    enforceable({"oneOf": [{"$ref": "#/$defs/p0"}, {"$ref": "#/$defs/q0"}], "$defs": pairs})
    many = {"anyOf": [*[ITSELF] * 10, {"type": "null"}]}
    found = enforceable({"oneOf": [ITSELF, TEXT], "$defs": {"A": many}})
    assert "anyOf" in found, "null is no string"
    values = [list(range(i * 300, i * 300 + 300)) for i in range(64)]
    assert "anyOf" in enforceable({"oneOf": [{"enum": each} for each in values]})
    assert "oneOf" in enforceable({"oneOf": [{"enum": [*each, 10**6]} for each in values]})
    wrong = {"type": "string", "enum": list(range(15_000))}
    with pytest.raises(InvalidRequest, match="has no value of `type` string"):
        enforceable({"anyOf": [ITSELF] * 2000, "$defs": {"A": wrong}})


def tagged(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"const": kind}, **more}, "required": ["kind", *more]}


@pytest.mark.parametrize(
    "branches",
    [
        [TEXT, {"type": "integer"}, {"type": "null"}],
        [tagged("a"), tagged("b", x=TEXT)],
        [{"enum": [1, 2]}, {"const": 3}],
        [tagged("a", x=TEXT), tagged("a") | {"additionalProperties": False}],
    ],
)
def test_branches_that_exclude_each_other_are_alternatives(branches: list[Any]) -> None:
    found = enforceable({"oneOf": branches})
    assert found == enforceable({"anyOf": branches})
    assert all(part.get("additionalProperties") is False for part in found["anyOf"] if "properties" in part)


@pytest.mark.parametrize(
    "branches",
    [
        [{"type": "integer"}, {"type": "number"}],
        [tagged("a"), tagged("a", x=TEXT)],
        [TEXT, {"maxLength": 3}],
        [{"enum": [1, 2]}, {"enum": [2.0]}],
        [{"$ref": "#/$defs/A"}, tagged("a", x=TEXT)],
    ],
)
def test_branches_that_may_overlap_are_left_to_the_engine_as_given(branches: list[Any]) -> None:
    schema = {"type": "object", "properties": {"v": {"oneOf": branches}}, "$defs": {"A": tagged("a")}}
    assert enforceable(schema) == schema, "closed branches would exclude each other"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, {}),
        ({"type": "string", "title": "T", "default": [[]], "examples": [1], "description": "d"}, TEXT),
        ({"type": "string", "x-guidance": {"lenient": True}}, TEXT),
        ({"type": "string", "$schema": "http://json-schema.org/schema#"}, TEXT),
        ({"type": "string", "$schema": 7}, TEXT),
        ({"type": "string", "minLength": 1.0}, {"type": "string", "minLength": 1}),
        (
            {"type": "object", "propertyNames": TEXT | {"title": "T"}, "additionalProperties": TEXT},
            {"type": "object", "additionalProperties": TEXT},
        ),
        (
            {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": TEXT},
            {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "additionalProperties": False},
        ),
        (
            {"type": "object", "propertyNames": {"type": "string", "pattern": "^x"}, "additionalProperties": TEXT},
            {"type": "object", "patternProperties": {"^x": TEXT}, "additionalProperties": False},
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string", "required": True}, "b": {"required": False}}},
            {"type": "object", "properties": {"a": TEXT, "b": {}}, "required": ["a"], "additionalProperties": False},
        ),
        (
            {"type": "array", "prefixItems": [TEXT], "unevaluatedItems": False},
            {"type": "array", "prefixItems": [TEXT], "items": False},
        ),
        (
            {"type": "object", "properties": {"a": TEXT}, "unevaluatedProperties": TEXT},
            {"type": "object", "properties": {"a": TEXT}, "additionalProperties": TEXT},
        ),
        ({"enum": [{"a": 1}, {"b": 1}], "properties": {"a": {}}},) * 2,
    ],
)
def test_what_can_be_said_otherwise_is_not_refused(schema: Any, expected: Any) -> None:
    assert enforceable(schema) == expected
