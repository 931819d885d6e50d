"""How the marks of a model's answer stand in the text that readers get."""

from __future__ import annotations

from collections.abc import Iterable

from container.text.control_marks import SIGNS
from container.text.tokenizer import Tokenizer

# A control token that the model wrote stands behind it. The same letters written as text have none, and readers get no
# text with signs (`VisibleText`), so letters are never taken for the token.
SIGN = SIGNS[0]


class MarkText:
    """Marks as readers find them: control tokens by their id, any other mark by its spelling.

    `shown` holds the control tokens that must stay in the text, as `Prompt.marks` takes them.
    """

    def __init__(self, tokenizer: Tokenizer, plain: Iterable[str] = ()) -> None:
        """Control tokens that are `plain` keep their mere spelling: readers of tool calls look for that."""
        self._tokenizer = tokenizer
        self._plain = frozenset(plain)
        self.shown: dict[int, str] = {}
        for token in self._plain:
            self._add(token, token)

    def of(self, mark: str) -> str:
        """The text of `mark`, which may be made of control tokens and words between them."""
        found = ""
        while mark:
            token = self._control_token(mark)
            if token and token not in self._plain:
                self._add(token, SIGN + token)
                found += SIGN
            size = len(token) or 1
            found += mark[:size]
            mark = mark[size:]
        return found

    def _control_token(self, text: str) -> str:
        """The longest control token that `text` begins with, or ""."""
        beginnings = (text[:size] for size in range(len(text), 0, -1))
        return next((each for each in beginnings if self._tokenizer.control_token_id(each) is not None), "")

    def _add(self, token: str, text: str) -> None:
        token_id = self._tokenizer.control_token_id(token)
        if token_id is not None:
            self.shown[token_id] = text
