"""The position at which serde_json refuses a value: the "at line L column C" of TGI's errors."""

from __future__ import annotations

import json
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import NamedTuple

from container.api.value_path import Step

_decoder = json.JSONDecoder(strict=False)
_SPACE = " \t\r\n"


class Position(NamedTuple):
    """Lines count from 1; a column is the number of UTF-8 bytes read of its line."""

    line: int
    column: int


def position(text: str, path: list[Step], *, missing: bool) -> Position | None:
    """The reader's position after refusing the value at `path` in the JSON `text`; None if there is no such value.

    serde_json refuses a number, string, true, false or null after reading it, but an array or object before. With
    `missing`, an object lacks a field, which is known only after reading all of it.
    """
    try:
        start = _find(text, path)
        if missing or text[start] not in "[{":
            start = _end(text, start)
    except (ValueError, IndexError, RecursionError):
        return None
    read = text[:start]
    line_start = read.rfind("\n") + 1
    return Position(read.count("\n") + 1, len(read[line_start:].encode("utf-8", "surrogatepass")))


def _find(text: str, path: list[Step]) -> int:
    index = _skip(text, 0)
    for step in path:
        index = _member(text, index, step) if isinstance(step, str) else _item(text, index, step)
    return index


def _member(text: str, index: int, key: str) -> int:
    """Where the value of `key` begins in the object at `index`."""
    while text[index] in "{,":
        found, index = scanstring(text, _skip(text, index + 1) + 1, False)
        index = _skip(text, _skip(text, index) + 1)
        if found == key:
            return index
        index = _skip(text, _end(text, index))
    raise ValueError(key)


def _item(text: str, index: int, number: int) -> int:
    index = _skip(text, index + 1)
    for _ in range(number):
        index = _skip(text, _skip(text, _end(text, index)) + 1)
    return index


def _end(text: str, index: int) -> int:
    return _decoder.raw_decode(text, index)[1]


def _skip(text: str, index: int) -> int:
    while index < len(text) and text[index] in _SPACE:
        index += 1
    return index
