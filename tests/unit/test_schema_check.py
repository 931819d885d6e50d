"""Schemas that are refused, each with a sentence that names the place."""

from __future__ import annotations

from typing import Any

import pytest

from container.api.schema.enforceable_schema import enforceable
from container.errors import InvalidRequest

TEXT = {"type": "string"}
LEAVE_OUT = "cannot be enforced; leave it out"
SCHEMAS = "must be a schema, an object or a boolean"


def within(part: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": part}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"type": "str"}, "`type` {} must be one of array, boolean, "),
        (within({"type": []}), "`properties.a.type` {} must be one of "),
        (within({"type": None}), "`properties.a.type` {} must be one of "),
        ({"anyOf": [TEXT, {"minLength": -1}]}, "`anyOf[1].minLength` {} must be a whole number from 0. Given: -1"),
        (within({"minLength": "1"}), '`properties.a.minLength` {} must be a whole number from 0. Given: "1"'),
        (within({"maxItems": 1.5}), "`properties.a.maxItems` {} must be a whole number from 0. Given: 1.5"),
        (within({"minProperties": True}), "`properties.a.minProperties` {} must be a whole number from 0. Given: true"),
        ({"minimum": "1"}, '`minimum` {} must be a number. Given: "1"'),
        ({"multipleOf": 0}, "`multipleOf` {} must be a number above 0. Given: 0"),
        ({"items": {"pattern": 1}}, "`items.pattern` {} must be a string. Given: 1"),
        ({"items": "string"}, f'`items` {{}} {SCHEMAS}. Given: "string"'),
        ({"items": [TEXT, 1]}, f"`items[1]` {{}} {SCHEMAS}. Given: 1"),
        ({"properties": [TEXT]}, "`properties` {} must be an object of schemas. Given: array"),
        ({"properties": {"a": "string"}}, f'`properties.a` {{}} {SCHEMAS}. Given: "string"'),
        ({"required": "a"}, '`required` {} must be a list of names. Given: "a"'),
        ({"required": [1]}, "`required` {} must be a list of names. Given: array"),
        ({"enum": []}, "`enum` {} must be a list of at least one value. Given: array"),
        ({"enum": "a"}, '`enum` {} must be a list of at least one value. Given: "a"'),
        ({"anyOf": []}, "`anyOf` {} must be a list of at least one schema. Given: array"),
        ({"oneOf": TEXT}, "`oneOf` {} must be a list of at least one schema. Given: object"),
        ({"$ref": "#/$defs/none"}, '`$ref` {} must name a part of it. Given: "#/$defs/none"'),
        (within({"$ref": "#/$defs/A", "$defs": {"A": {}}}), "`properties.a.$ref` {} must name a part of it. Given: "),
        ({"$ref": "#/anyOf/2", "anyOf": [{}, {}]}, "`$ref` {} must name a part of it. Given: "),
        ({"$ref": "#/anyOf/1", "anyOf": [{}, {"type": "x"}]}, "`anyOf[1].type` {} must be one of "),
        ({"$ref": 1}, "`$ref` {} must be a string. Given: 1"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "x"}}}, "`$defs.A.type` {} must be one of "),
        (within({"not": TEXT}), f"`properties.a.not` {{}} {LEAVE_OUT}"),
        (within({"uniqueItems": True}), f"`properties.a.uniqueItems` {{}} {LEAVE_OUT}"),
        ({"prefixItems": [{"contains": TEXT}]}, f"`prefixItems[0].contains` {{}} {LEAVE_OUT}"),
        ({"if": TEXT, "then": TEXT}, f"`if` {{}} {LEAVE_OUT}"),
        ({"dependentRequired": {"a": ["b"]}}, f"`dependentRequired` {{}} {LEAVE_OUT}"),
        ({"propertyNames": {"maxLength": 3}}, f"`propertyNames` {{}} {LEAVE_OUT}"),
        ({"$ref": "#/$defs/A", "unevaluatedProperties": False, "$defs": {"A": {}}}, "`unevaluatedProperties` {} "),
        ({"additionalProperties": {"$dynamicRef": "#A"}}, f"`additionalProperties.$dynamicRef` {{}} {LEAVE_OUT}"),
        ({"x-guidance": {"lenient": True}, "not": TEXT}, f"`not` {{}} {LEAVE_OUT}"),
    ],
)
def test_a_keyword_that_is_wrong_or_cannot_be_held_is_named(schema: Any, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        enforceable(schema)
    assert refused.value.message.startswith(sentence.format("of the JSON schema"))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (False, "the schema is false"),
        (within(False), "at `properties.a`, the schema is false"),
        ({"anyOf": [False, within(False)]}, "at `anyOf[0]`, the schema is false"),
        ({"type": "array", "items": False, "minItems": 1}, "at `items`, the schema is false"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "`minimum` is above `maximum`"),
        (
            within({"type": "number", "exclusiveMinimum": 1, "maximum": 1}),
            "at `properties.a`, `exclusiveMinimum` and `maximum` leave no number",
        ),
        ({"allOf": [{"type": "string", "minLength": 3, "maxLength": 1}]}, "at `allOf[0]`, `minLength` is above "),
        ({"type": "array", "minItems": 3, "maxItems": 1}, "`minItems` is above `maxItems`"),
        ({"type": "object", "minProperties": 3, "maxProperties": 1}, "`minProperties` is above `maxProperties`"),
        ({"type": "integer", "enum": ["a", True, None, 1.5]}, "`enum` has no value of `type` integer"),
        ({"type": ["string", "null"], "const": 1}, "`const` has no value of `type` string, null"),
        ({"enum": [True], "const": 1}, "`const` is not in `enum`"),
        (within({}) | {"required": ["b"], "additionalProperties": False}, "`additionalProperties` false shuts out"),
        (within({}) | {"required": ["a", "b"], "maxProperties": 1}, "`required` names more properties than"),
    ],
)
def test_a_schema_that_nothing_fits_is_refused_at_its_place(schema: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        enforceable(schema)
    assert refused.value.message.startswith(f"no value fits the JSON schema: {reason}")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": False, "b": {"type": "integer", "minimum": 5, "maximum": 1}}},
        {"anyOf": [False, {"enum": [1], "type": "string"}, TEXT]},
        {"type": ["string", "integer"], "minimum": 5, "maximum": 1},
        {"type": "array", "items": False},
        {"type": "integer", "enum": [1.0, "a"]},
        {"minimum": 5, "exclusiveMinimum": True, "type": "integer"},
        {"type": "string", "$defs": {"unused": {"type": "x", "not": {}}}},
        {"type": "string", "unknown": {"type": "x"}, "nullable": True},
        {"const": {"not": 1, "type": "x"}},
        {"$ref": "#type", "type": "string"},
        {"$ref": "#/$defs/a%20b~1c", "$defs": {"a b/c": TEXT}},
        {"properties": {"a": {"$id": "http://a/b", "$ref": "#/$defs/q", "$defs": {"q": TEXT}}}},
        {"$ref": "item", "$defs": {"A": {"$id": "item", "type": "string"}}},
    ],
)
def test_what_something_fits_is_taken(schema: Any) -> None:
    enforceable(schema)


def test_size_and_depth_are_bounded() -> None:
    with pytest.raises(InvalidRequest, match=r"^the JSON schema must be at most \d+ bytes. Given: \d+$"):
        enforceable({"enum": ["x" * 1000] * 140})
    for levels, sentence in (
        (60, None),
        (130, "must be nested at most 124 levels deep. Given: 131"),
        (3000, "is nested too deeply"),
    ):
        deep: Any = {"const": "[{" * 500}
        for _ in range(levels):
            deep = {"items": deep}
        if sentence is None:
            enforceable(deep)
            continue
        with pytest.raises(InvalidRequest, match=sentence):
            enforceable(deep)
