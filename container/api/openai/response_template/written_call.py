"""Calls as a grammar makes a model write them in one form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from container.api.openai.tool_parsers.form import NUMBER, Arguments, Form, Tags

Call = tuple[str, Mapping[str, Any]]


def written(form: Form, calls: Sequence[Call]) -> str:
    """The text of the calls."""
    before, after = form.begin + form.lead, form.tail + form.end
    texts = [before + name + form.between + _arguments(form, arguments) + after for name, arguments in calls]
    text = form.opening + form.around[0] + form.separator.join(texts) + form.around[1] + form.closing
    return text.replace(NUMBER, "0")


def _arguments(form: Form, arguments: Mapping[str, Any]) -> str:
    if form.arguments is Arguments.PYTHON:
        return ", ".join(f"{key}={_json(value)}" for key, value in arguments.items())
    if form.arguments is Arguments.QUOTED:
        quoted = {key: form.quotes + value + form.quotes if isinstance(value, str) else _json(value)
                  for key, value in arguments.items()}  # fmt: skip
        return "{" + ",".join(f"{key}:{value}" for key, value in quoted.items()) + "}"
    if form.tags is not None:
        return "".join(_tag(form.tags, key, value) for key, value in arguments.items())
    return _json(dict(arguments))


def _tag(tags: Tags, key: str, value: Any) -> str:
    is_text = isinstance(value, str)
    attribute = tags.text if is_text else tags.other.replace("{type}", "number")
    frame = "\n" if tags.framed else ""
    opening = tags.key_open + key + tags.key_close + attribute + tags.value_open + frame
    return opening + (value if is_text else _json(value)) + frame + tags.value_close.replace("{key}", key) + tags.gap


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
