"""The text of one region -> its value, by the field's `content`: text, numbers, JSON, tags, lines or Python calls."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from container.api.openai.parts import CallArguments, CallStart
from container.api.openai.response_template.control_signs import without_tokens
from container.api.openai.tool_parsers.python_calls import PythonCalls

TEXT, JSON = "text", "json"
_NO_KEY = r"(?P<key>(?!))"


@dataclass(frozen=True, slots=True)
class Unquoted:
    """A value as the model wrote it, without quotes, and as the field's `value_parser` reads it."""

    text: str
    value: Any


class Unreadable(ValueError):
    """The text is not what the field says."""


def value_of(content: str, text: str, args: Mapping[str, Any], names: frozenset[str]) -> Any:
    """JSON values, with `Unquoted` for those of tags and lines. `names` are the functions that may be called.

    Raises Unreadable, or SlowPattern.
    """
    try:
        return _READERS[content](text, args, names)
    except (ValueError, RecursionError) as exc:
        raise Unreadable(str(exc)) from exc


def _text(text: str, args: Mapping[str, Any], _names: frozenset[str]) -> str:
    text = without_tokens(text)
    return text.strip() if args.get("strip", True) else text


def _int(text: str, args: Mapping[str, Any], names: frozenset[str]) -> int:
    return int(_text(text, args, names))


def _float(text: str, args: Mapping[str, Any], names: frozenset[str]) -> float:
    return _finite(_text(text, args, names))


def _bool(text: str, args: Mapping[str, Any], names: frozenset[str]) -> bool:
    return _text(text, args, names).lower() in {"true", "1"}


def _json(text: str, args: Mapping[str, Any], names: frozenset[str]) -> Any:
    written = _as_json(text, args.get("string_delims", ()), quotes_keys=args.get("unquoted_keys", False))
    try:
        # A model writes line breaks in strings as they are.
        return json.loads(without_tokens(written), strict=False, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        if args.get("allow_non_json", False):
            return _text(text, {}, names)
        raise


def _as_json(text: str, delimiters: Sequence[tuple[str, str]], *, quotes_keys: bool) -> str:
    """The text with JSON's quotes around strings and keys. Each character is read a fixed number of times."""
    if not delimiters and not quotes_keys:
        return text
    before = ""
    pieces: list[str] = []
    last = 0
    for part in _marked(text, delimiters, quotes_keys=quotes_keys):
        pieces.append(text[last : part.start])
        before = pieces[-1].rstrip()[-1:] or before
        if part.is_key:
            pieces.append(f'"{part.text}"' if before in {"{", ","} else part.text)
        else:
            pieces.append(part.text)
        before, last = pieces[-1][-1:], part.end
    return "".join([*pieces, text[last:]])


class _Part(NamedTuple):
    """A string, written as JSON's, or a word before a colon."""

    text: str
    start: int
    end: int
    is_key: bool


def _marked(text: str, delimiters: Sequence[tuple[str, str]], *, quotes_keys: bool) -> Iterator[_Part]:
    """The strings and keys. A delimiter that nothing closes begins no string, so it is not looked for again."""
    delimiters = list(delimiters)
    beginning = _beginning(delimiters, quotes_keys=quotes_keys)
    at = 0
    while (found := beginning.search(text, at)) is not None:
        at = found.end()
        if found.lastgroup is not None:
            yield _Part(found[0], found.start(), at, is_key=found.lastgroup == "key")
            continue
        index = (found.lastindex or 1) - 1
        end = text.find(delimiters[index][1], at)
        if end < 0:
            del delimiters[index]
            beginning, at = _beginning(delimiters, quotes_keys=quotes_keys), found.start()
            continue
        inside = json.dumps(text[at:end], ensure_ascii=False)
        at = end + len(delimiters[index][1])
        yield _Part(inside, found.start(), at, is_key=False)


def _beginning(delimiters: Sequence[tuple[str, str]], *, quotes_keys: bool) -> re.Pattern[str]:
    """A delimiter that begins a string, JSON's string, which may lack its end, or a key. None is read again."""
    begins = [f"({re.escape(begin)})" for begin, _ in delimiters]
    key = r"(?<!\w)(?P<key>\w++)(?=\s*+:)" if quotes_keys else _NO_KEY
    return re.compile("|".join([*begins, r'(?P<string>"(?:\\.|[^"\\])*+"?)', key]), re.DOTALL)


def _tags(text: str, args: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    pairs = [(match["key"], match["value"] or "") for match in args["tag_pattern"].all(text)]
    found: dict[str, Any] = {}
    merged: set[str] = set()
    for key, raw in pairs:
        if key is None:
            raise Unreadable("a tag without a key")
        key, value = without_tokens(key), _inner(raw, args, names)
        if key in found and args.get("merge_duplicates", False):
            found[key] = [*(found[key] if key in merged else [found[key]]), value]
            merged.add(key)
        else:
            found[key] = value
    return found


def _lines(text: str, args: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in without_tokens(text).split(args.get("line_sep", "\n")):
        key, separator, value = _text(line, args, names).partition(args.get("kv_sep", ":"))
        if separator:
            found[_text(key, args, names)] = _inner(_text(value, args, names), args, names)
    return found


def _inner(raw: str, args: Mapping[str, Any], names: frozenset[str]) -> Unquoted:
    content, inner_args = args.get("value_parser") or (None, {})
    raw_text = without_tokens(raw)
    return Unquoted(raw_text, raw_text if content is None else _READERS[content](raw, inner_args, names))


def _python(text: str, _args: Mapping[str, Any], names: frozenset[str]) -> list[dict[str, Any]]:
    calls = PythonCalls(names)
    parts, rest = calls.push(without_tokens(text).strip())
    found: list[dict[str, Any]] = []
    for part in [*parts, *calls.flush()]:
        if isinstance(part, CallStart):
            found.append({"name": part.name})
        elif isinstance(part, CallArguments):
            found[-1]["arguments"] = json.loads(part.fragment)
        else:
            raise Unreadable("text beside a call")
    if rest:
        raise Unreadable("text behind the calls")
    return found


def _finite(text: str) -> float:
    """Raises ValueError for what JSON has no number for."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


_SPACED = frozenset({"strip"})
_VALUES = frozenset({"value_parser"})
# The contents, each with its arguments.
CONTENTS: dict[str, frozenset[str]] = {
    TEXT: _SPACED,
    "int": _SPACED,
    "float": _SPACED,
    "bool": _SPACED,
    JSON: frozenset({"string_delims", "unquoted_keys", "allow_non_json"}),
    "xml-inline": _VALUES | {"tag_pattern", "merge_duplicates"},
    "kv-lines": _VALUES | {"line_sep", "kv_sep", "strip"},
    "python-call-list": frozenset(),
}
_READERS: dict[str, Callable[[str, Mapping[str, Any], frozenset[str]], Any]] = {
    TEXT: _text,
    "int": _int,
    "float": _float,
    "bool": _bool,
    JSON: _json,
    "xml-inline": _tags,
    "kv-lines": _lines,
    "python-call-list": _python,
}
