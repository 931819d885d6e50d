"""Adapters that a request names. None are served, so that no answer comes from the base model unnoticed.

SageMaker names an adapter in a header (adapter inference components), LMI in the body's `adapters`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import request

from container.api.validation import show
from container.errors import AdapterUnknown

ADAPTER = "X-Amzn-SageMaker-Adapter-Identifier"
_FIELD = "adapters"


def without_adapters(body: dict[str, Any]) -> dict[str, Any]:
    """`body` without a neutral `adapters`. Raises AdapterUnknown if the request names an adapter anywhere."""
    named = request.headers.get(ADAPTER, "").strip()
    if named:
        raise AdapterUnknown(ADAPTER, show(named), param=None)
    for place in _places(body):
        if not _is_neutral(place.get(_FIELD)):
            raise AdapterUnknown(_FIELD, _spelt(place[_FIELD]), param=_FIELD)
    return {key: value for key, value in body.items() if key != _FIELD}


def _places(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects that may name an adapter: the body, its parameters, and the same of each Vertex instance."""
    instances = body.get("instances")
    for each in (body, *(instances if isinstance(instances, list) else ())):
        if isinstance(each, dict):
            yield each
            if isinstance(each.get("parameters"), dict):
                yield each["parameters"]


def _is_neutral(value: Any) -> bool:
    """LMI's list has one name for each prompt; an empty one stands for the base model."""
    return value in (None, "", {}) or (isinstance(value, list) and all(each in (None, "") for each in value))


def _spelt(value: Any) -> str:
    names = value if isinstance(value, list) else [value]
    return ", ".join(show(name) for name in names if name not in (None, ""))[:200]
