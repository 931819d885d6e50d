"""What the marks of one model's thoughts do, wherever they stand in its answer."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from container.api.openai.mark_text import SIGN, MarkText
from container.api.openai.thought_forms import ThoughtForm


class Turn(enum.Enum):
    """What a mark does: begins or ends a thought, begins or ends the answer, begins a call, or nothing."""

    OPEN = enum.auto()
    CLOSE = enum.auto()
    ANSWER = enum.auto()
    ANSWERED = enum.auto()
    CALL = enum.auto()
    SKIP = enum.auto()


Turns = dict[str, Turn]


@dataclass(frozen=True, slots=True)
class Thought:
    """One form of thoughts. `start` and `inside` say what marks do at its beginning and later in it."""

    form: ThoughtForm
    start: Turns
    inside: Turns


class Thoughts:
    """The forms that one model may write, in the text that readers get.

    `start` and `inside` say what marks do at the beginning of an answer and later in it. Marks that are control tokens
    are marks everywhere; others may be what the text talks about. `openings` and `answers` lead from a mark to the
    thought it begins, and to the marks that end the answer it begins.
    """

    def __init__(self, forms: tuple[ThoughtForm, ...], text: MarkText, call: str = "") -> None:
        """`call` begins a tool call, also in a thought that has no end: anywhere, or in a new line if it is text."""
        self.forms = forms
        openings = [(text.of(mark), form) for form in forms for mark in form.openings]
        closings = [text.of(mark) for form in forms for mark in form.closings]
        pairs = [(text.of(begin), tuple(map(text.of, ends))) for form in forms for begin, ends in form.answer]
        self.answers: dict[str, tuple[str, ...]] = dict(pairs)
        # Read last: by now `text` knows every control token.
        self.shown = text.shown
        loose = dict.fromkeys((token for token in text.shown.values() if token.startswith(SIGN)), Turn.SKIP)
        self._call = call
        self._is_control = call in text.shown.values()
        answers = dict.fromkeys(self.answers, Turn.ANSWER)
        self.start: Turns = loose | dict.fromkeys(closings, Turn.SKIP) | answers
        self.inside: Turns = loose | _control(dict.fromkeys(closings, Turn.CLOSE)) | _control(answers)
        self.openings = {mark: self._thought(form, text, loose) for mark, form in openings}
        opening = dict.fromkeys(self.openings, Turn.OPEN)
        self.start |= opening
        self.inside |= _control(opening)

    def _thought(self, form: ThoughtForm, text: MarkText, loose: Turns) -> Thought:
        answers = {text.of(begin): Turn.ANSWER for begin, _ in form.answer}
        call = self._call if self._is_control else f"\n{self._call}"
        calls = {call: Turn.CALL} if self._call else {}
        inside = loose | calls | _control(answers) | {text.of(mark): Turn.CLOSE for mark in form.closings}
        repeated = {text.of(mark): Turn.SKIP for mark in form.openings}
        label = {form.label: Turn.SKIP} if form.label else {}
        return Thought(form, inside | repeated | label | dict.fromkeys(filter(None, [self._call]), Turn.CALL), inside)

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """The control tokens of the marks, in the order in which a model writes them."""
        return tuple(text.removeprefix(SIGN) for text in self.shown.values() if text.startswith(SIGN))

    def opened_by(self, prompt: str) -> Thought | None:
        """The thought that the prompt's end has opened and not closed."""
        end = prompt.rstrip()
        for thought in self.openings.values():
            label = thought.form.label.rstrip()
            for opening in thought.form.openings:
                if end.endswith(opening) or (label and end.endswith(opening + label)):
                    return thought
        return None

    def left_open_by(self, text: str) -> Thought | None:
        """The thought that `text` has begun and not ended."""
        for thought in self.openings.values():
            begun = max(text.rfind(opening) for opening in thought.form.openings)
            if begun > max(text.rfind(closing) for closing in thought.form.closings):
                return thought
        return None

    def answer_opened_by(self, prompt: str) -> tuple[str, ...]:
        """The marks that end the answer that the prompt's end has opened."""
        end = prompt.rstrip()
        return next((ends for begin, ends in self.answers.items() if end.endswith(begin.replace(SIGN, ""))), ())


def _control(turns: Turns) -> Turns:
    """Those of marks that begin with a control token."""
    return {mark: turn for mark, turn in turns.items() if mark.startswith(SIGN)}
