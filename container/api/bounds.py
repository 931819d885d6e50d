"""Numeric ranges, written once at the field: the OpenAPI document shows them and `check_bounds` applies them."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from msgspec import Meta
from msgspec import inspect as mi

from container.api.validation import check


def within(
    minimum: float | None = None, maximum: float | None = None, *, above: float | None = None, **schema: Any
) -> Meta:
    """A field from `minimum` to `maximum`, or greater than `above`; `schema` is added to the document."""
    shown = {"minimum": minimum, "maximum": maximum, "exclusiveMinimum": above}
    return Meta(extra_json_schema={key: value for key, value in shown.items() if value is not None} | schema)


def shown(**schema: Any) -> Meta:
    """Keywords for the field's schema in the document; other code checks them."""
    return Meta(extra_json_schema=schema)


def check_bounds(request: msgspec.Struct) -> None:
    """Raise InvalidRequest for the first field out of range, naming field, range and value. None counts as absent."""
    for field, allowed, bounds in _bounds_of(type(request)):
        value = getattr(request, field)
        if value is None:
            continue
        above, low, high = (bounds.get(key) for key in ("exclusiveMinimum", "minimum", "maximum"))
        ok = (above is None or value > above) and (low is None or value >= low) and (high is None or value <= high)
        check(field, allowed, value, ok)


@cache
def _bounds_of(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, dict[str, Any]], ...]:
    """For each field with a range: its name, the range in words, the schema keywords."""
    found = []
    for field in msgspec.structs.fields(kind):
        info = mi.type_info(field.type)
        schema = (info.extra_json_schema or {}) if isinstance(info, mi.Metadata) else {}
        if {"exclusiveMinimum", "minimum", "maximum"} & schema.keys():
            found.append((field.name, _in_words(schema), schema))
    return tuple(found)


def _in_words(schema: dict[str, Any]) -> str:
    above, low, high = (schema.get(key) for key in ("exclusiveMinimum", "minimum", "maximum"))
    if above is not None:
        return f"> {above}" if high is None else f"> {above} and <= {high}"
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"from {low} to {high}"
