"""An answer's text up to a stop string, with what stands for each special token in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from container.text.control_marks import SIGNS, without_forged_signs
from container.text.detokenizer import IncrementalDetokenizer
from container.text.stop_strings import StopStrings
from container.text.tokenizer import Tokenizer


class VisibleText:
    """Searches the text with special tokens, as TGI does, and gives it without them.

    `marks` gives the text that stands for a special token, by its id; with `show_special`, each other one stands for
    itself. If there are `SIGNS` in marks, there are none in the rest of the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_tail: Sequence[int],
        stop: StopStrings,
        marks: Mapping[int, str],
        *,
        show_special: bool,
        join_special: bool = False,
    ) -> None:
        """`join_special` is as in `Prompt`."""
        self._tokenizer = tokenizer
        self._text = IncrementalDetokenizer(
            tokenizer, prompt_tail, skip_special_tokens=False, spaces_between_special_tokens=not join_special
        )
        self._stop = stop
        self._marks = marks
        self._show_special = show_special
        self._is_signed = any(text.startswith(SIGNS) for text in marks.values())
        # What is shown for each character that the search holds back.
        self._shown: deque[str] = deque()

    def push(self, token_id: int) -> str:
        """The text that the token completes."""
        text = self._text.push([token_id])
        special = self._tokenizer.is_special(token_id)
        spelling = self._tokenizer.decode([token_id], skip_special_tokens=False) if special else ""
        before = text[: max(0, len(text) - len(spelling))]
        self._shown += self._plain(before)
        if spelling and text:
            mark = self._marks.get(token_id, spelling if self._show_special else "")
            self._shown += [mark, *[""] * (len(text) - len(before) - 1)]
        return self._take(self._stop.push(text))

    def finish(self) -> str:
        """The text still held back."""
        rest = self._text.finish()
        self._shown += self._plain(rest)
        return self._take(self._stop.push(rest) + self._stop.flush())

    def _plain(self, text: str) -> str:
        return without_forged_signs(text) if self._is_signed else text

    def _take(self, text: str) -> str:
        return "".join(self._shown.popleft() for _ in text)


def spell_special(stops: Sequence[str], tokenizer: Tokenizer) -> bool:
    """Whether a stop string holds the spelling of a special token."""
    return any(token in stop for stop in stops for token in tokenizer.control_tokens)
