"""An answer's text up to a stop string, where stop strings may spell special tokens that the text leaves out."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from container.text.detokenizer import IncrementalDetokenizer
from container.text.stop_strings import StopStrings
from container.text.tokenizer import Tokenizer


class VisibleText:
    """Searches the text with special tokens, as TGI does, and gives it without those that are not `shown`."""

    def __init__(
        self, tokenizer: Tokenizer, prompt_tail: Sequence[int], stop: StopStrings, shown: Collection[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._shown_ids = shown
        self._text = IncrementalDetokenizer(tokenizer, prompt_tail, skip_special_tokens=False)
        self._stop = stop
        # One for each character that the search holds back.
        self._visible: deque[bool] = deque()

    def push(self, token_id: int) -> str:
        """The text that the token completes."""
        text = self._text.push([token_id])
        special = self._tokenizer.is_special(token_id) and token_id not in self._shown_ids
        num_hidden = len(self._tokenizer.decode([token_id], skip_special_tokens=False)) if special else 0
        self._visible += [index < len(text) - num_hidden for index in range(len(text))]
        return self._shown(self._stop.push(text))

    def finish(self) -> str:
        """The text still held back."""
        rest = self._text.finish()
        self._visible += [True] * len(rest)
        return self._shown(self._stop.push(rest) + self._stop.flush())

    def _shown(self, text: str) -> str:
        return "".join(character for character in text if self._visible.popleft())


def spell_special(stops: Sequence[str], tokenizer: Tokenizer) -> bool:
    """Whether a stop string holds the spelling of a special token."""
    return any(token in stop for stop in stops for token in tokenizer.control_tokens)
