"""Errors of conversion name the field and show what was given, also where a dict has free keys."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from container.api.validation import convert
from container.errors import InvalidRequest


class Body(msgspec.Struct):
    bias: dict[str, float] = {}
    nested: dict[str, dict[str, list[int]]] = {}
    listed: list[dict[str, str]] = []


@pytest.mark.parametrize(
    ("body", "param", "given"),
    [
        ({"bias": {"a": "1.5"}}, "bias.a", '"1.5"'),
        ({"bias": {"a": 1, "b": 2, "c": {"x": 1}, "d": "x", "e": 5}}, "bias.c", "object"),
        ({"bias": {"a": True}}, "bias.a", "true"),
        ({"bias": {"a": None}}, "bias.a", "null"),
        ({"bias": {"a. [0]": "x"}}, "bias.a. [0]", '"x"'),
        ({"bias": {"": []}}, "bias.", "array"),
        ({"nested": {"p": {"q": [1]}, "r": {"s": [], "t": [1, "x"]}}}, "nested.r.t[1]", '"x"'),
        ({"listed": [{}, {"a": "b", "c": 5}]}, "listed[1].c", "5"),
        ({"bias": {"z" * 500: "x"}}, f"bias.{'z' * 80}", '"x"'),
    ],
)
def test_the_key_is_named_and_the_value_is_shown(body: dict[str, Any], param: str, given: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert(body, Body)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"`{param}`: expected ")
    assert caught.value.message.endswith(f". Given: {given}")


def test_many_keys_cost_few_conversions() -> None:
    bias: dict[str, Any] = dict.fromkeys((chr(97 + i % 26) * (1 + i // 26) for i in range(5000)), 1.0)
    with pytest.raises(InvalidRequest, match=r"`bias\.q+`: expected `float`, got `str`"):
        convert({"bias": bias | {"q" * 60: "x"}}, Body)
