"""The shortest text that a regular expression of a template stands for, where that is plain to see."""

from __future__ import annotations

import re

_GROUP = re.compile(r"\(\?P<(\w+)>")
_QUANTIFIER = re.compile(r"([*+?])[?+]?")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "s": "\n"}
_CLASSES = "dwDWSbBAZGKpPXRmMhHvVNuUxLlfr0123456789"


def texts_between(source: str, *groups: str) -> list[str] | None:
    """The texts around the named groups, which must follow one another; None if it takes more to tell."""
    found = [""]
    left = list(groups)
    index = 0
    while index < len(source):
        named = _GROUP.match(source, index)
        if named is not None:
            end = _end_of_group(source, index)
            if not left or named[1] != left.pop(0) or _QUANTIFIER.match(source, end):
                return None
            found.append("")
            index = end
            continue
        text, end = _atom(source, index)
        quantifier = _QUANTIFIER.match(source, end)
        if quantifier is not None:
            text, end = (text if quantifier[1] == "+" else ""), quantifier.end()
        if text is None:
            return None
        found[-1] += text
        index = end
    return None if left else found


def _atom(source: str, index: int) -> tuple[str | None, int]:
    """The text of what stands at `index`, None if it has no single one, and where it ends."""
    character = source[index]
    if character == "\\" and index + 1 < len(source):
        escaped = source[index + 1]
        return (None if escaped in _CLASSES else _ESCAPED.get(escaped, escaped)), index + 2
    if character == "(":
        return None, _end_of_group(source, index)
    if character == "[":
        found = _CLASS.match(source, index)
        return None, len(source) if found is None else found.end()
    return (None if character in ".^$|)*+?{\\" else character), index + 1


def _end_of_group(source: str, index: int) -> int:
    depth = 0
    while index < len(source):
        found = _CLASS.match(source, index) if source[index] == "[" else None
        if source[index] == "\\":
            index += 2
            continue
        depth += {"(": 1, ")": -1}.get(source[index], 0)
        index = index + 1 if found is None else found.end()
        if depth == 0:
            return index
    return index
