"""`transform`: what becomes of the value of a field. A text `{name}` or `{name.key}` stands for a value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from container.api.openai.response_template.template import Field, UnreadableTemplate

_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")


class NotTransformed(ValueError):
    """The value has not what the transform asks for."""


def check_transform(scope: str, transform: Any, known: frozenset[str] | None) -> None:
    """Raises UnreadableTemplate for a text beside a placeholder, or a name that is not in `known`; None: any name."""
    for text in _texts(transform):
        whole = _PLACEHOLDER.fullmatch(text)
        if whole is None and _PLACEHOLDER.search(text) is not None:
            raise UnreadableTemplate(f"the transform of {scope} mixes a placeholder with text: {text!r:.60}")
        if whole is not None and known is not None and whole[1].partition(".")[0] not in known:
            raise UnreadableTemplate(f"the transform of {scope} names {text!r:.60}, which nothing gives")


def transformed(field: Field, value: Any, captures: Mapping[str, str]) -> Any:
    """The value as the field's transform makes it. Raises NotTransformed."""
    if field.transform is None:
        return value
    if not field.transform_each:
        return _applied(field.transform, {**captures, "content": value})
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise NotTransformed("no list of objects")
    return [_applied(field.transform, {**captures, **item}) for item in value]


def placeholder(transform: Any, *path: str) -> str:
    """The path that stands in the transform at `path`, such as `content.name`; "" if there is no placeholder."""
    for key in path:
        transform = transform.get(key) if isinstance(transform, dict) else None
    found = _PLACEHOLDER.fullmatch(transform) if isinstance(transform, str) else None
    return found[1] if found is not None else ""


def _texts(transform: Any) -> Iterator[str]:
    if isinstance(transform, str):
        yield transform
    elif isinstance(transform, dict | list):
        for each in transform.values() if isinstance(transform, dict) else transform:
            yield from _texts(each)


def _applied(transform: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(transform, dict):
        return {key: _applied(each, values) for key, each in transform.items()}
    if isinstance(transform, list):
        return [_applied(each, values) for each in transform]
    found = _PLACEHOLDER.fullmatch(transform) if isinstance(transform, str) else None
    if found is None:
        return transform
    value: Any = values
    for key in found[1].split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise NotTransformed(found[0])
        value = value[key]
    return value
