"""Calls in the form of the model's family, written where its template would lose them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from container.api.openai.tool_parsers import Form
from container.api.openai.tool_parsers.form import NUMBER, SHORT_ID, Arguments
from container.text.control_marks import OwnText
from container.web.body import json_type

# Text, and whether it is data.
Pieces = list[tuple[str, bool]]


def written_calls(form: Form, calls: Iterable[tuple[str, Any]], first: int = 0) -> OwnText:
    """Names and arguments as the model writes them. `first` is the number of the first call.

    Arguments that are no object are written as they are. What names and arguments spell is never a control token.
    """
    pieces: Pieces = [(form.opening + form.around[0], False)]
    for i, (name, arguments) in enumerate(calls):
        pieces += [(form.separator, False)] if i else []
        number = str(first + i)
        pieces += [
            (form.begin + form.lead.replace(NUMBER, number), False),
            (name, True),
            (form.between.replace(NUMBER, number).replace(SHORT_ID, number.zfill(9)), False),
            *(_arguments(form, arguments) if isinstance(arguments, dict) else [(str(arguments), True)]),
            (form.tail + form.end, False),
        ]
    return OwnText((*pieces, (form.around[1] + form.closing, False)))


def _arguments(form: Form, arguments: dict[str, Any]) -> Pieces:
    match form.arguments:
        case Arguments.TAGS:
            return [piece for key, value in arguments.items() for piece in _tagged(form, key, value)]
        case Arguments.QUOTED:
            return _quoted(arguments, form.quotes)
        case Arguments.PYTHON:
            return [(", ".join(f"{key}={_python(value)}" for key, value in arguments.items()), True)]
        case _:
            return [(_json(arguments), True)]


def _tagged(form: Form, key: str, value: Any) -> Pieces:
    tags = form.tags
    assert tags is not None
    text = value if isinstance(value, str) else _json(value)
    attribute = tags.text if isinstance(value, str) else tags.other.replace("{type}", json_type(value))
    frame = "\n" if tags.framed else ""
    close, names_key, rest = (frame + tags.value_close + tags.gap).partition("{key}")
    return [
        (tags.key_open, False),
        (key, True),
        (tags.key_close + attribute + tags.value_open + frame, False),
        (text, True),
        (close, False),
        *([(key, True), (rest, False)] if names_key else []),
    ]


def _quoted(value: Any, quotes: str) -> Pieces:
    if isinstance(value, str):
        return [(quotes, False), (value, True), (quotes, False)]
    if isinstance(value, dict):
        members = [[(f"{key}:", True), *_quoted(member, quotes)] for key, member in value.items()]
        return [("{", True), *_separated(members), ("}", True)]
    if isinstance(value, list):
        return [("[", True), *_separated([_quoted(item, quotes) for item in value]), ("]", True)]
    return [(_json(value), True)]


def _separated(members: Sequence[Pieces]) -> Pieces:
    return [piece for i, member in enumerate(members) for piece in ([(",", True)] if i else []) + member]


def _python(value: Any) -> str:
    """Python's word for true, false and null, else JSON, as in LFM2's own template."""
    return repr(value) if value is None or isinstance(value, bool) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
