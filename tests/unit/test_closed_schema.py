"""Objects of a schema closed as they are meant, and nothing shut out that the schema lets in by other means."""

from __future__ import annotations

import random
from typing import Any

import pytest

from container.api.schema.closed_schema import closed
from tests.support.random_schemas import random_object

OBJECT: dict[str, Any] = {"properties": {"a": {"type": "string"}}}
SHUT = {"type": "object", "additionalProperties": False} | OBJECT


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (OBJECT, SHUT),
        (OBJECT | {"required": ["a"], "title": "T"}, SHUT | {"required": ["a"], "title": "T"}),
        (OBJECT | {"type": ["object", "null"]}, SHUT | {"type": ["object", "null"]}),
        ({"type": "array", "items": OBJECT}, {"type": "array", "items": SHUT}),
        ({"type": "array", "prefixItems": [OBJECT]}, {"type": "array", "prefixItems": [SHUT]}),
        ({"anyOf": [OBJECT, {"type": "null"}]}, {"anyOf": [SHUT, {"type": "null"}]}),
        ({"properties": {"b": OBJECT}}, {"type": "object", "properties": {"b": SHUT}, "additionalProperties": False}),
        ({"type": "object", "additionalProperties": OBJECT}, {"type": "object", "additionalProperties": SHUT}),
        ({"$ref": "#/$defs/d", "$defs": {"d": OBJECT}}, {"$ref": "#/$defs/d", "$defs": {"d": SHUT}}),
    ],
)
def test_objects_that_name_their_properties_are_closed(schema: Any, expected: Any) -> None:
    before = str(schema)
    assert closed(schema) == expected
    assert closed(expected) == expected
    assert str(schema) == before, "what was given is not changed"


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object"},
        {"type": "object", "properties": {}},
        OBJECT | {"additionalProperties": True},
        OBJECT | {"additionalProperties": {"type": "integer"}},
        OBJECT | {"patternProperties": {"^x": {}}},
        OBJECT | {"propertyNames": {"maxLength": 3}},
        OBJECT | {"minProperties": 2},
        OBJECT | {"required": ["b"]},
        OBJECT | {"anyOf": [OBJECT, {"required": ["b"]}]},
        {"allOf": [OBJECT, {"properties": {"b": {}}}]},
        {"properties": {"b": {"allOf": [OBJECT, {"properties": {"c": {}}}]}}},
        {"$ref": "#/$defs/d", "properties": {"b": {}}, "$defs": {"d": OBJECT}},
        {"const": OBJECT},
        {"enum": [OBJECT]},
    ],
)
def test_what_other_properties_may_join_stays_open(schema: Any) -> None:
    assert closed(schema) == schema


def test_random_schemas_are_closed_as_their_authors_would() -> None:
    for seed in range(200):
        strict = random_object(random.Random(seed))
        assert closed(_without(strict, "additionalProperties")) == strict


def test_a_schema_nested_too_deeply_is_left_alone() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"items": deep}
    assert closed(deep) is deep


def _without(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _without(part, key) for name, part in value.items() if name != key}
    return [_without(part, key) for part in value] if isinstance(value, list) else value
