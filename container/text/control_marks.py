"""Keeps user text from becoming control tokens.

A tokenizer turns the spelling of a control token into that token anywhere, also inside a user's message. So before a
template runs, every control token that a user string spells gets a mark, a Unicode noncharacter, after its first
character. The rendered text is then cut at the marks, and the pieces are encoded separately: no piece contains a whole
control token, and the pieces joined are the user's literal text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import jinja2.nodes

# U+FDD0..U+FDEF are noncharacters: for internal use, never for interchange (Unicode, section 23.7).
_NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
# Stand around the control tokens of an answer where a reader must tell a token from its letters.
SIGNS = _NONCHARACTERS[:2]
_WITHOUT_SIGNS = str.maketrans(dict.fromkeys(SIGNS, "\ufffd"))
_STRING_SEARCHES = frozenset(
    [
        "split",
        "rsplit",
        "startswith",
        "endswith",
        "replace",
        "find",
        "rfind",
        "index",
        "count",
        "partition",
        "rpartition",
        "strip",
        "lstrip",
        "rstrip",
        "removeprefix",
        "removesuffix",
    ]
)


def template_control_tokens(tree: jinja2.nodes.Template, added_tokens: Iterable[str]) -> frozenset[str]:
    """Added tokens that the template writes as turn markers, also if the tokenizer does not flag them as special.

    DeepSeek's `<|User|>` is one: a user who can write it can forge a turn. A token that the template also searches for
    inside messages (`</think>`) is content and is left out.
    """
    written = "\0".join(_constants(tree))
    sought = "\0".join(_sought(tree))
    return frozenset(token for token in added_tokens if token in written and token not in sought and token.strip())


def _constants(node: jinja2.nodes.Node) -> Iterator[str]:
    yield from (data.data for data in node.find_all(jinja2.nodes.TemplateData))
    yield from (const.value for const in _with_self(node, jinja2.nodes.Const) if isinstance(const.value, str))


def _sought(tree: jinja2.nodes.Template) -> Iterator[str]:
    for comparison in tree.find_all(jinja2.nodes.Compare):
        yield from _constants(comparison)
    for call in tree.find_all(jinja2.nodes.Call):
        if isinstance(call.node, jinja2.nodes.Getattr) and call.node.attr in _STRING_SEARCHES:
            for argument in call.args:
                yield from _constants(argument)
    for applied in tree.find_all(jinja2.nodes.Filter):
        if applied.name == "replace":
            for argument in applied.args:
                yield from _constants(argument)


def _with_self(node: jinja2.nodes.Node, kind: type[Any]) -> Iterator[Any]:
    if isinstance(node, kind):
        yield node
    yield from node.find_all(kind)


class OwnText(str):
    """Text of the server's own, which may write control tokens; only its data may not.

    It stays such a text when it is added to another text: that is data.
    """

    __slots__ = ("pieces",)
    pieces: tuple[tuple[str, bool], ...]

    def __new__(cls, pieces: Iterable[tuple[str, bool]]) -> OwnText:
        """Each piece is a text, and whether it is data."""
        found = tuple(pieces)
        text = super().__new__(cls, "".join(piece for piece, _ in found))
        text.pieces = found
        return text

    def __getnewargs__(self) -> tuple[tuple[tuple[str, bool], ...]]:  # type: ignore[override]
        """What a copy is made of."""
        return (self.pieces,)

    def __add__(self, other: str) -> OwnText:
        return OwnText((*self.pieces, *_pieces_of(other)))

    def __radd__(self, other: str) -> OwnText:
        return OwnText((*_pieces_of(other), *self.pieces))


def _pieces_of(text: str) -> tuple[tuple[str, bool], ...]:
    return text.pieces if isinstance(text, OwnText) else ((text, True),)


class ControlMarks:
    """Finds where to mark text, for one set of control tokens.

    A token of one character cannot be marked inside and is skipped. A token that the tokenizer matches after
    normalisation (`normalized: true`) is found only in its exact spelling.
    """

    def __init__(self, control_tokens: Iterable[str]) -> None:
        tokens = sorted(token for token in control_tokens if len(token) > 1)
        self._starts = re.compile(_any_of(tokens))
        self._beginnings = frozenset(token[:length] for token in tokens for length in range(1, len(token)))
        self._longest = max(map(len, tokens), default=1)
        self._first_characters = frozenset(token[0] for token in tokens)

    def positions(self, text: str) -> list[int]:
        """Offsets where `text` must be cut, ascending.

        A cut falls inside every control token, also overlapping ones, and at the end of a text that ends with the
        beginning of a control token, because following text could complete it. That end is before trailing white space,
        which templates trim.
        """
        found: set[int] = set()
        match = self._starts.search(text)
        while match is not None:
            found.add(match.start() + 1)
            match = self._starts.search(text, match.start() + 1)
        end = text.rstrip()
        if self._ends_with_beginning(end):
            found.add(len(end))
        return sorted(found)

    def needed(self, value: Any) -> bool:
        """Whether any string in `value` needs a mark."""
        return any(self.positions(text) for text in strings_in(value))

    def mark(self, value: Any, mark: str) -> Any:
        """A copy of `value` with every string and dict key marked. A `mark` of "" marks nothing."""
        if isinstance(value, OwnText):
            return "".join(self._mark_text(text, mark) if is_data else text for text, is_data in value.pieces)
        if isinstance(value, str):
            return self._mark_text(value, mark)
        if isinstance(value, dict):
            return {self.mark(key, mark): self.mark(item, mark) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(item, mark) for item in value]
        return value

    def _ends_with_beginning(self, text: str) -> bool:
        tail = text[1 - self._longest :] if self._longest > 1 else ""
        return not self._first_characters.isdisjoint(tail) and any(
            tail[start:] in self._beginnings for start in range(len(tail))
        )

    def _mark_text(self, text: str, mark: str) -> str:
        positions = self.positions(text) if mark else []
        if not positions:
            return text
        return mark.join(text[start:stop] for start, stop in zip([0, *positions], [*positions, None], strict=True))


def strings_in(value: Any) -> Iterator[str]:
    """Every string in a JSON value, including dict keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings_in(key)
            yield from strings_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_in(item)


def without_forged_signs(text: str) -> str:
    """Text that holds no control token, of the same length: a sign that a model or user wrote is U+FFFD."""
    return text if text.isascii() else text.translate(_WITHOUT_SIGNS)


def unused_noncharacters(texts: Iterable[str]) -> list[str]:
    """The noncharacters that occur in none of `texts`, neither literally nor as a `\\ufdd0` escape."""
    candidates = list(_NONCHARACTERS)
    for text in texts:
        candidates = [mark for mark in candidates if mark not in text and escaped(mark) not in text]
    return candidates


def escaped(mark: str) -> str:
    """How JSON and Python's repr spell `mark`, without the backslash."""
    return f"u{ord(mark):04x}"


def restore_escaped(rendered: str, mark: str) -> str:
    """Undo `tojson(ensure_ascii=True)` and repr on the marks.

    This is exact: `unused_noncharacters` excludes characters whose escape occurs in the texts.
    """
    if escaped(mark) not in rendered:
        return rendered
    return re.sub(rf"\\+{escaped(mark)}", mark, rendered)


def _any_of(tokens: list[str]) -> str:
    """A regular expression that matches at the start of any of `tokens`, as a trie.

    One tokenizer can have thousands of control tokens that differ only in their last characters.
    """
    if not tokens:
        return r"(?!)"
    branches: list[str] = []
    index = 0
    while index < len(tokens):
        head = tokens[index][0]
        tails = []
        while index < len(tokens) and tokens[index][0] == head:
            tails.append(tokens[index][1:])
            index += 1
        # A token that ends here already matches, so longer ones with the same beginning are not needed.
        branches.append(re.escape(head) + ("" if "" in tails else _any_of(tails)))
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
