"""The parameters of /adapters: the fields of a JSON body, or of the query, as SageMaker and LMI send them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from container.api.adapter_checks import SOURCE, check_name, check_source
from container.api.ignored_fields import note_ignored
from container.api.validation import check, convert
from handler.seam.adapter_name import MAX_CHARS, PATTERN

T = TypeVar("T", bound=msgspec.Struct)

MAX_LIMIT = 1000
_BOOLEANS = {"true": True, "false": False}
_FLAG = "true or false"
_IGNORED = "this server knows no such option of an adapter"
NAME_SCHEMA = {"type": "string", "pattern": PATTERN, "minLength": 1, "maxLength": MAX_CHARS}
SOURCE_SCHEMA = {"type": "string", "pattern": SOURCE}


class RegisterBody(msgspec.Struct, frozen=True, kw_only=True):
    """The adapter in directory `src` of the container is loaded as `name`.

    It is read at once whatever `preload` says, as its files may vanish. One that is `pin`ned stays on the device.
    """

    name: Annotated[str, Meta(extra_json_schema=NAME_SCHEMA)]
    src: Annotated[str, Meta(extra_json_schema=SOURCE_SCHEMA)]
    preload: bool = True
    pin: bool = False


class UpdateBody(msgspec.Struct, frozen=True, kw_only=True):
    """What changes: `pin`. `src` must be what it is."""

    src: str | None = None
    preload: bool | None = None
    pin: bool | None = None


def parse_register(query: Mapping[str, str], body: Mapping[str, Any]) -> RegisterBody:
    """The fields of `query`, and those of `body` before them. Raises InvalidRequest."""
    wanted = _convert(query, body, RegisterBody)
    check_name("name", wanted.name)
    check_source("src", wanted.src)
    return wanted


def parse_update(query: Mapping[str, str], body: Mapping[str, Any]) -> UpdateBody:
    """As `parse_register`."""
    return _convert(query, body, UpdateBody)


def parse_page(query: Mapping[str, str]) -> tuple[int, int]:
    """`limit` and `next_page_token`: how many adapters to list, and how many to leave out. Raises InvalidRequest."""
    limit = _count(query, "limit", 100, 1, MAX_LIMIT)
    return limit, _count(query, "next_page_token", 0, 0, 2**31 - 1)


def _convert(query: Mapping[str, str], body: Mapping[str, Any], kind: type[T]) -> T:
    return convert(_known(query, kind) | _known(body, kind), kind)


def _known(given: Mapping[str, Any], kind: type[T]) -> dict[str, Any]:
    """What `kind` has of `given`, with flags for words: a query has no other, and some bodies are made of one."""
    known = {name: value for name, value in given.items() if name in kind.__struct_fields__}
    for name in given.keys() - known:
        note_ignored(name, _IGNORED)
    for name in ("preload", "pin"):
        value = known.get(name)
        if isinstance(value, str):
            check(name, _FLAG, value, value.lower() in _BOOLEANS)
            known[name] = _BOOLEANS[value.lower()]
    return known


def _count(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    number = int(text) if re.fullmatch(r"[0-9]{1,10}", text) else -1
    check(name, f"a whole number from {least} to {most}", text, least <= number <= most)
    return number
