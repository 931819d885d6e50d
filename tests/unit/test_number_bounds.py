"""Bounds of numbers in JSON schemas: as far as the grammar engine can count, and a sentence beyond."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher

from container.api.schema.enforceable_schema import enforceable
from container.api.schema.number_bounds import LARGEST
from container.errors import InvalidRequest

EXTREMES = (2**63, 2**63 - 1, 2**63 - 2, 10**19, 1e22, 1e300, 10**30, LARGEST, 10**17, 2**53)
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
BOUNDS: list[dict[str, Any]] = [
    *({key: -value} for key in LOWER for value in EXTREMES),
    *({key: value} for key in UPPER for value in EXTREMES),
    *({low: -value, high: value} for low in LOWER for high in UPPER for value in EXTREMES),
    *({"minimum": value} for value in (10**17, 10**18, 9 * 10**18)),
    *({"maximum": -value} for value in (10**17, 10**18, 9 * 10**18)),
    {"minimum": 0, "maximum": 2**64 - 1},
    {"minimum": 10**18, "maximum": 10**30},
]


def said(schema: Any) -> str:
    return str(LLMatcher.validate_grammar(json.dumps({"grammars": [{"json_schema": schema}]})))


@pytest.mark.parametrize("kind", [{"type": "integer"}, {"type": "number"}, {"type": ["integer", "null"]}, {}])
def test_every_bound_that_numbers_can_reach_compiles(kind: dict[str, Any]) -> None:
    for bounds in BOUNDS:
        assert said(enforceable(kind | bounds)) == "", (kind, bounds)


def test_what_fits_the_new_bounds_fits_the_old_ones() -> None:
    for bounds in BOUNDS:
        found = enforceable({"type": "integer", **bounds})
        assert all(found[key] >= bounds[key] for key in LOWER if key in bounds)
        assert all(found[key] <= bounds[key] for key in UPPER if key in bounds)
    assert enforceable({"minimum": -5, "exclusiveMaximum": 7.5}) == {"minimum": -5, "exclusiveMaximum": 7.5}


@pytest.mark.parametrize(
    "bounds", [{"minimum": 1e22}, {"maximum": -(2**63)}, {"exclusiveMinimum": 2**63}, {"exclusiveMaximum": -1e300}]
)
def test_bounds_that_no_number_reaches_are_refused_by_name(bounds: dict[str, Any]) -> None:
    (key,) = bounds
    with pytest.raises(InvalidRequest, match=f"`{key}` .* leaves only numbers beyond {LARGEST}"):
        enforceable({"properties": {"a": {"items": {"type": "number", **bounds}}}})
    assert enforceable({"type": "string", **bounds}) == {"type": "string", **bounds}


@pytest.mark.parametrize("flags", [{"minimum": "a"}, {"maximum": None}])
def test_what_is_no_number_is_refused_by_name(flags: dict[str, Any]) -> None:
    (key,) = flags
    with pytest.raises(InvalidRequest, match=f"`{key}` of the JSON schema must be a number"):
        enforceable(flags)
    draft_4 = {"exclusiveMinimum": True, "minimum": 1}
    assert enforceable(draft_4) == draft_4


def test_the_schemas_true_and_false() -> None:
    assert enforceable(True) == {}
    with pytest.raises(InvalidRequest, match="no value fits the JSON schema: the schema is false"):
        enforceable(False)
    assert enforceable({"properties": {"a": True}}) == enforceable({"properties": {"a": True}})
    assert said(enforceable({"properties": {"a": True, "b": {"items": True}}})) == ""
