"""Grammars of clients -> Lark in llguidance's dialect: GBNF, llama.cpp's and xgrammar's EBNF, or Lark as it is.

The engine's lexer takes the longest match, so a rule that refers to no rule around itself becomes one terminal, which
is a regular expression: inside it every alternative counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from container.errors import InvalidRequest

_RULE = re.compile(r"^[ \t]*[\w.-]+[ \t]*::=", re.MULTILINE)
_TOKEN = re.compile(
    r"""
    (?P<space>\s+|\#[^\n]*)
    | (?P<head>[A-Za-z_][\w.-]*\s*::=)
    | (?P<name>[A-Za-z_][\w.-]*)
    | (?P<text>"(?:[^"\\\n]|\\.)*")
    | (?P<set>\[(?:[^\]\\\n]|\\.)*\])
    | (?P<times>\{\s*\d+\s*(?:,\s*\d*\s*)?\})
    | (?P<mark>[()|*+?.])
    """,
    re.VERBOSE,
)
_MAX_BYTES = 65_536
_MAX_TIMES = 10_000
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)
_SIMPLE = {"n": "\n", "r": "\r", "t": "\t"}


def lark_of(source: str, param: str) -> str:
    """The grammar as Lark. Raises InvalidRequest for GBNF that does not parse; the engine checks Lark."""
    if not source.strip() or len(source.encode("utf-8", "surrogatepass")) > _MAX_BYTES:
        raise InvalidRequest(f"`{param}` must be a grammar of 1 to {_MAX_BYTES} bytes", param=param)
    if _RULE.search(source) is None:
        return source
    try:
        return _Grammar(source).lark()
    except ValueError as exc:
        raise InvalidRequest(f"`{param}` is not a valid grammar: {exc}", param=param) from exc


@dataclass(slots=True)
class _Rule:
    """The pieces of a body in Lark; `references` has the rule's name for each piece that begins with one."""

    pieces: list[str] = field(default_factory=list)
    references: dict[int, str] = field(default_factory=dict)


class _Grammar:
    def __init__(self, source: str) -> None:
        self._rules: dict[str, _Rule] = {}
        self._read(source)
        if "root" not in self._rules:
            raise ValueError("there is no rule `root`")
        for rule in self._rules.values():
            for name in rule.references.values():
                if name not in self._rules:
                    raise ValueError(f"there is no rule `{name[:80]}`")

    def lark(self) -> str:
        terminals = self._terminals()
        # Lark tells terminals from rules by their case.
        written = {name: f"T{i}" if name in terminals else f"r{i}" for i, name in enumerate(self._rules)}
        lines = [f"start: {written['root']}"]
        for head, rule in self._rules.items():
            body = [
                written[name] + piece.removeprefix(name) if (name := rule.references.get(i)) else piece
                for i, piece in enumerate(rule.pieces)
            ]
            lines.append(f"{written[head]}: {' '.join(body)}")
        return "\n".join(["%llguidance {}", *lines, ""])

    def _terminals(self) -> set[str]:
        """The rules from which no path of references leads to a loop."""
        users: dict[str, list[str]] = {name: [] for name in self._rules}
        waits_for = {name: set(rule.references.values()) for name, rule in self._rules.items()}
        for name, others in waits_for.items():
            for other in others:
                users[other].append(name)
        ready = [name for name, others in waits_for.items() if not others]
        found: set[str] = set()
        while ready:
            name = ready.pop()
            found.add(name)
            for user in users[name]:
                waits_for[user].discard(name)
                if not waits_for[user]:
                    ready.append(user)
        return found

    def _read(self, source: str) -> None:
        rule: _Rule | None = None
        depth = 0
        empty = True
        position = 0
        while position < len(source):
            match = _TOKEN.match(source, position)
            if match is None:
                raise ValueError(f"line {source.count(chr(10), 0, position) + 1} cannot be read")
            position = match.end()
            kind, text = str(match.lastgroup), match[0]
            if kind == "space":
                continue
            if kind == "head":
                _end(rule, depth, empty)
                rule, depth, empty = self._begin(text), 0, True
                continue
            if rule is None:
                raise ValueError('it must begin with a rule, such as `root ::= "yes"`')
            depth, empty = _add(rule, kind, text, depth, empty)
        _end(rule, depth, empty)

    def _begin(self, head: str) -> _Rule:
        name = head.removesuffix("::=").rstrip()
        if name in self._rules:
            raise ValueError(f"the rule `{name[:80]}` is written twice")
        return self._rules.setdefault(name, _Rule())


def _add(rule: _Rule, kind: str, text: str, depth: int, empty: bool) -> tuple[int, bool]:
    """Add a token to the body; returns the depth of brackets and whether the alternative is still empty."""
    if kind == "times" or text in set("*+?"):
        if empty:
            raise ValueError(f"`{text}` must follow something")
        rule.pieces[-1] += _times(text) if kind == "times" else text
        return depth, False
    if text == "(" and kind == "mark":
        rule.pieces.append("(")
        return depth + 1, True
    if kind == "mark" and text in "|)":
        if empty:
            rule.pieces.append('""')
        rule.pieces.append(text)
        if text == ")" and not depth:
            raise ValueError("a bracket is closed that is not open")
        return (depth - 1, False) if text == ")" else (depth, True)
    if kind == "name":
        rule.references[len(rule.pieces)] = text
    rule.pieces.append(_WRITTEN[kind](text))
    return depth, False


def _end(rule: _Rule | None, depth: int, empty: bool) -> None:
    if depth:
        raise ValueError("a bracket is not closed")
    if rule is not None and empty:
        rule.pieces.append('""')


def _times(text: str) -> str:
    counts = [int(part) for part in re.findall(r"\d{1,6}", text)]
    if max(counts) > _MAX_TIMES or counts != sorted(counts):
        raise ValueError(f"`{text[:40]}` is no number of times up to {_MAX_TIMES}")
    return re.sub(r"\s+", "", text)


def _literal(text: str) -> str:
    """A string of GBNF as one of Lark."""
    return json.dumps(_ESCAPE.sub(_unescaped, text[1:-1]), ensure_ascii=False)


def _unescaped(found: re.Match[str]) -> str:
    text = found[1]
    if text[0] in "xuU" and len(text) > 1:
        code = int(text[1:], 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise ValueError(f"`\\{text}` is no character")
        return chr(code)
    return _SIMPLE.get(text, text)


def _set(text: str) -> str:
    """A set of characters as a regular expression."""
    negated, body = ("^", text[2:-1]) if text.startswith("[^") else ("", text[1:-1])
    characters: list[tuple[str, bool]] = []
    position = 0
    while position < len(body):
        match = _ESCAPE.match(body, position)
        characters.append((body[position], False) if match is None else (_unescaped(match), True))
        position += 1 if match is None else len(match[0])
    written = ""
    for i, (character, escaped) in enumerate(characters):
        between = 0 < i < len(characters) - 1
        written += "-" if character == "-" and not escaped and between else _in_set(character)
    if not written:
        raise ValueError("a set of characters is empty")
    return f"/[{negated}{written}]/"


def _in_set(character: str) -> str:
    return f"\\x{{{ord(character):X}}}" if not character.isalnum() or not character.isascii() else character


_WRITTEN: dict[str, Callable[[str], str]] = {
    "name": str,
    "text": _literal,
    "set": _set,
    "mark": lambda _text: "/(?s:.)/",
}
