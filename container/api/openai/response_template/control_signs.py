"""Control tokens in the text that a `TemplateReader` gets: each stands between two signs.

The signs are noncharacters (Unicode, section 23.7), and the reader gets no text with signs of its own (`VisibleText`).
So a mark of a template that names a control token matches the token itself, never the same letters written as text, and
nothing of it reaches the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from container.text.control_marks import SIGNS, without_forged_signs

BEGIN, END = SIGNS
_SIGNED = re.compile(f"{BEGIN}[^{END}]*{END}?")
_SIGNS = re.compile(f"[{BEGIN}{END}]")
# In a pattern these stand for themselves only behind a backslash. Any other character may have one.
_SPECIAL = frozenset(r"\.^$*+?[|()")


class ControlSigns:
    """Puts the signs around the control tokens of one vocabulary, the longest where several begin."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = sorted(filter(None, tokens), key=len, reverse=True)

    def in_text(self, text: str) -> list[str]:
        """The tokens whose letters are in the text, the longest first."""
        return [token for token in self._tokens if token in text]

    def of_prompt(self, text: str, mark: str | None) -> str:
        """The text of a prompt, without the `mark` that stands where a message spells a control token."""
        pieces = text.split(mark) if mark else [text]
        return "".join(self.of_text(without_forged_signs(piece)) for piece in pieces)

    def of_text(self, text: str) -> str:
        """A literal of the template, or text without signs."""
        found = self.in_text(text)
        return re.sub("|".join(map(re.escape, found)), _signed, text) if found else text

    def of_pattern(self, source: str) -> str:
        """A regular expression, where the tokens are written with or without backslashes."""
        bare = source.replace("\\", "")
        found = [token for token in self._tokens if token.replace("\\", "") in bare]
        return re.sub("|".join(map(_spellings, found)), _signed, source) if found else source


def sign(token: str) -> str:
    """The token as it stands in a reader's text."""
    return f"{BEGIN}{token}{END}"


def without_tokens(text: str) -> str:
    """What a client gets of a text: none of its control tokens."""
    return _SIGNS.sub("", _SIGNED.sub("", text)) if BEGIN in text or END in text else text


def without_signs(text: str) -> str:
    """The text with its control tokens spelled."""
    return _SIGNS.sub("", text) if BEGIN in text or END in text else text


def _signed(found: re.Match[str]) -> str:
    return sign(found[0])


def _spellings(token: str) -> str:
    """The ways to write `token` in a pattern."""
    return "".join(
        rf"\\{re.escape(character)}" if character in _SPECIAL else rf"\\?{re.escape(character)}" for character in token
    )
