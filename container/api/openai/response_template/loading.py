"""The JSON of a response_template -> `ResponseTemplate`. What would be read otherwise than meant is refused."""

from __future__ import annotations

from typing import Any

import regex

from container.api.openai.response_template.body import CONTENTS, TEXT
from container.api.openai.response_template.control_signs import ControlSigns
from container.api.openai.response_template.mark import MAX_MARK_CHARS, Mark, SlowPattern
from container.api.openai.response_template.template import (
    CALLS,
    CONTENT,
    REASONING,
    Field,
    ResponseTemplate,
    UnreadableTemplate,
)
from container.api.openai.response_template.transform import check_transform

_TEMPLATE_KEYS = frozenset(("version", "defaults", "fields", "start_anchor", "start_anchor_pattern"))
_MARK_KEYS = ("open", "open_pattern", "close", "close_pattern")
_FIELD_KEYS = frozenset(
    (*_MARK_KEYS, "content", "content_args", "repeats", "join", "optional", "transform", "transform_each")
)
_FIELDS = frozenset((CONTENT, CALLS, *REASONING))
_BOOLEANS = ("repeats", "optional", "transform_each")
_MAX_PATTERN_CHARS = 4096
_EOS = "eos"
# What answers hold, as long as the longest mark.
_PARAGRAPH = (
    "The quick brown fox jumps over the lazy dog, then rests. In 2024 it had 3.5 million readers (see the table).\n\n"
    "* One: `a = b[0]`\n* Two: \"yes\", 'no'.\n" * 8
)[:MAX_MARK_CHARS]


def load(given: Any, signs: ControlSigns) -> ResponseTemplate:
    """Read the template of a model with these control tokens. Raises UnreadableTemplate with one line."""
    found = _object("response_template", given, _TEMPLATE_KEYS)
    if found.get("version", 1) != 1:
        raise UnreadableTemplate(f"its version is {found['version']!r:.40}, not 1")
    _check_defaults(found.get("defaults", {}))
    raw = found.get("fields")
    if not isinstance(raw, dict) or not raw:
        raise UnreadableTemplate("`fields` is no object with fields")
    fields = tuple(_field(name, each, signs) for name, each in raw.items())
    if sum(field.open is None for field in fields) > 1:
        raise UnreadableTemplate("more than one field has no `open`")
    if sum(field.name in REASONING for field in fields) > 1:
        raise UnreadableTemplate("several fields hold thoughts")
    # A prompt is searched as plain text.
    anchor = _mark("response_template", found, "start_anchor", ControlSigns(()))
    if anchor is None:
        raise UnreadableTemplate("it has no `start_anchor`")
    return ResponseTemplate(fields, anchor, signs)


def _check_defaults(given: Any) -> None:
    """Only values that an answer has anyway."""
    if not isinstance(given, dict):
        raise UnreadableTemplate("`defaults` is no object")
    for key, value in given.items():
        if not (value in (None, "", []) if key in _FIELDS else key == "role" and value == "assistant"):
            raise UnreadableTemplate(f"`defaults` has a value for `{key:.40}`")


def _object(scope: str, given: Any, keys: frozenset[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise UnreadableTemplate(f"{scope} is no object")
    unknown = sorted(str(key) for key in given if key not in keys)
    if unknown:
        raise UnreadableTemplate(f"{scope} has the unknown key `{unknown[0]:.40}`")
    return given


def _field(name: str, given: Any, signs: ControlSigns) -> Field:
    scope = f"the field `{name:.40}`"
    if name not in _FIELDS:
        raise UnreadableTemplate(f"{scope} is none of {', '.join(sorted(_FIELDS))}")
    found = _object(scope, given, _FIELD_KEYS)
    for key in _BOOLEANS:
        if not isinstance(found.get(key, False), bool):
            raise UnreadableTemplate(f"`{key}` of {scope} is neither true nor false")
    content = found.get("content", "text")
    if content not in CONTENTS:
        raise UnreadableTemplate(f"{scope} has the unknown content {content!r:.40}")
    field = Field(
        name,
        _mark(scope, found, "open", signs),
        _mark(scope, _without_eos(found), "close", signs),
        content,
        _content_args(scope, content, found.get("content_args", {}), signs),
        _join(scope, found),
        found.get("transform"),
        found.get("transform_each", False),
    )
    _check_use(scope, field)
    return field


def _without_eos(given: dict[str, Any]) -> dict[str, Any]:
    """The documentation says that `close: "eos"` is the end of the answer, which closes every region anyway."""
    close = given.get("close")
    if close != _EOS and not (isinstance(close, list) and _EOS in close):
        return given
    texts = [text for text in close if text != _EOS] if isinstance(close, list) else []
    return {**{key: value for key, value in given.items() if key != "close"}, **({"close": texts} if texts else {})}


def _join(scope: str, given: dict[str, Any]) -> str | None:
    join = given.get("join")
    if join is not None and not (isinstance(join, str) and given.get("repeats")):
        raise UnreadableTemplate(f"`join` of {scope} is no text, or the field does not repeat")
    return join


def _check_use(scope: str, field: Field) -> None:
    """Text for the client comes as it was written; calls come as the transform makes them."""
    captured = frozenset[str]().union(*(mark.names for mark in (field.open, field.close) if mark is not None))
    if field.name == CALLS:
        if field.transform_each and field.transform is None:
            raise UnreadableTemplate(f"{scope} has `transform_each` and no `transform`")
        if captured and field.transform is None:
            raise UnreadableTemplate(f"{scope} names groups that no `transform` takes")
        known = None if field.transform_each else captured | {"content"}
        check_transform(scope, field.transform, known)
        return
    if field.content != TEXT or field.transform not in (None, "{content}") or captured or field.transform_each:
        raise UnreadableTemplate(f"{scope} is not plain text")


def _content_args(scope: str, content: str, given: Any, signs: ControlSigns) -> dict[str, Any]:
    """The arguments with their marks ready to be searched."""
    found = dict(_object(f"`content_args` of {scope}", given, CONTENTS[content]))
    for key in ("strip", "unquoted_keys", "allow_non_json", "merge_duplicates"):
        if not isinstance(found.get(key, False), bool):
            raise UnreadableTemplate(f"`{key}` of {scope} is neither true nor false")
    for key in ("line_sep", "kv_sep"):
        if not (isinstance(found.get(key, ":"), str) and found.get(key, ":")):
            raise UnreadableTemplate(f"`{key}` of {scope} is no text")
    if "string_delims" in found:
        found["string_delims"] = _delimiters(scope, found["string_delims"], signs)
    if content == "xml-inline":
        tag = _mark(scope, {"tag_pattern": found.get("tag_pattern")}, "tag", signs)
        if tag is None or not tag.names >= {"key", "value"}:
            raise UnreadableTemplate(f"`tag_pattern` of {scope} has no groups `key` and `value`")
        found["tag_pattern"] = tag
    if found.get("value_parser") is not None:
        parser = _object(f"`value_parser` of {scope}", found["value_parser"], frozenset(("name", "args")))
        name = parser.get("name", "text")
        if name not in CONTENTS:
            raise UnreadableTemplate(f"{scope} has the unknown value parser {name!r:.40}")
        found["value_parser"] = (name, _content_args(scope, name, parser.get("args", {}), signs))
    return found


def _delimiters(scope: str, given: Any, signs: ControlSigns) -> list[tuple[str, str]]:
    pairs: list[Any] = given if isinstance(given, list) else [None]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair)) for pair in pairs):
        raise UnreadableTemplate(f"`string_delims` of {scope} is no list of pairs of texts")
    return [(signs.of_text(pair[0]), signs.of_text(pair[1])) for pair in pairs]


def _is_text(given: Any) -> bool:
    return isinstance(given, str) and bool(given)


def _mark(scope: str, given: dict[str, Any], key: str, signs: ControlSigns) -> Mark | None:
    """The mark `key`, or `key` with `_pattern`; None if there is neither."""
    literal, pattern = given.get(key), given.get(f"{key}_pattern")
    if literal is not None and pattern is not None:
        raise UnreadableTemplate(f"{scope} has both `{key}` and `{key}_pattern`")
    if pattern is not None:
        return _pattern(f"`{key}_pattern` of {scope}", pattern, signs)
    if literal is None:
        return None
    texts = [literal] if isinstance(literal, str) else literal
    if not isinstance(texts, list) or not texts or not all(map(_is_text, texts)):
        raise UnreadableTemplate(f"`{key}` of {scope} is neither a text nor a list of texts")
    signed = tuple(dict.fromkeys(map(signs.of_text, texts)))
    if max(map(len, signed)) > MAX_MARK_CHARS:
        raise UnreadableTemplate(f"`{key}` of {scope} has more than {MAX_MARK_CHARS} characters")
    longest_first = sorted(signed, key=len, reverse=True)
    return Mark("|".join(map(regex.escape, longest_first)), source=texts[0], literals=signed)


def _pattern(scope: str, source: Any, signs: ControlSigns) -> Mark:
    if not isinstance(source, str) or len(source) > _MAX_PATTERN_CHARS:
        raise UnreadableTemplate(f"{scope} is no text of up to {_MAX_PATTERN_CHARS} characters")
    try:
        mark = Mark(signs.of_pattern(source), source=source)
        # The usual slow patterns are slow on a run of one of their own characters.
        for character in sorted({*filter(str.isprintable, source), " ", "\n", "a", "0"}):
            mark.search(character * MAX_MARK_CHARS, 0, MAX_MARK_CHARS, partial=False)
        # Others are slow where words may begin a mark.
        mark.search(_PARAGRAPH, 0, MAX_MARK_CHARS, partial=True)
    except regex.error as exc:
        raise UnreadableTemplate(f"{scope} is no regular expression: {exc}") from exc
    except SlowPattern as exc:
        raise UnreadableTemplate(f"{scope} takes too long") from exc
    return mark
