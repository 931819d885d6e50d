"""Splits the thoughts of a reasoning model from its answer while it streams."""

from __future__ import annotations

from collections.abc import Iterable

from container.api.openai.mark_text import SIGN
from container.api.openai.thoughts import Thought, Thoughts, Turn, Turns
from container.api.openai.tool_parsers.marker import Gap, overlap


class ReasoningSplitter:
    """Reasoning is the text between the marks of a thought.

    Marks that are control tokens are found anywhere in the answer, others only at its beginning. `opened`: the prompt
    has begun this thought. `begun`: the prompt has begun the answer, which `closings` end. `calls`: the model may call
    tools, which ends a thought. White space around the marks
    belongs to neither reasoning nor content. The result does not depend on how the text was cut into pushes.
    """

    def __init__(
        self,
        thoughts: Thoughts,
        *,
        opened: Thought | None = None,
        begun: bool = False,
        closings: tuple[str, ...] = (),
        calls: bool = False,
    ) -> None:
        self._thoughts = thoughts
        self._thought = opened
        # Only white space has been read of the answer, or of the thought.
        self._at_start = opened is not None or not (begun or closings)
        self._closings = closings
        self._calls = calls
        # In a thought, and in an answer between marks, white space waits for what follows it.
        self._gap = Gap(after_call=True)
        self._after_mark = bool(closings)
        self._thought_before = opened is not None
        # Thoughts are separated by a line break.
        self._reasoned = False
        self._separated = True
        self._held = ""
        self._reasoning: list[str] = []
        self._content: list[str] = []

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends inside a thought."""
        return self._thought is not None

    def push(self, text: str) -> tuple[str, str]:
        """The `(reasoning, content)` that `text` completes."""
        return self._read(text, final=False)

    def flush(self) -> tuple[str, str]:
        """The text held back so far; call it at the end of the answer."""
        reasoning, content = self._read("", final=True)
        space = self._gap.flush()
        return (reasoning + space, content) if self.thinking else (reasoning, content + space)

    def _read(self, text: str, *, final: bool) -> tuple[str, str]:
        text, self._held = self._held + text, ""
        while text:
            text = self._begin(text, final=final) if self._at_start else self._go_on(text, final=final)
        found = "".join(self._reasoning), "".join(self._content)
        self._reasoning, self._content = [], []
        return found

    def _begin(self, text: str, *, final: bool) -> str:
        """Read a mark at the start, or find that there is none; return the text that is left."""
        turns = self._thoughts.start if self._thought is None else self._in_thought(self._thought.start)
        start = text.lstrip()
        mark, waits = _mark_at(start, turns, final=final)
        if waits:
            self._held = text
            return ""
        if not mark:
            self._at_start = False
            return text
        return self._turn(turns[mark], mark) + start[len(mark) :]

    def _go_on(self, text: str, *, final: bool) -> str:
        """Show the text up to the next mark; return what is left behind it."""
        turns = self._in_answer() if self._thought is None else self._in_thought(self._thought.inside)
        end = _first(text, turns, final=final)
        self._show(text[:end])
        mark, waits = _mark_at(text[end:], turns, final=final)
        if waits or not mark:
            self._held = text[end:]
            return ""
        return self._turn(turns[mark], mark) + text[end + len(mark) :]

    def _in_thought(self, turns: Turns) -> Turns:
        return turns if self._calls else {mark: turn for mark, turn in turns.items() if turn is not Turn.CALL}

    def _in_answer(self) -> Turns:
        return self._thoughts.inside | dict.fromkeys(self._closings, Turn.ANSWERED)

    def _turn(self, turn: Turn, mark: str) -> str:
        """Change the state as the mark says; return the part of it that is to be read again."""
        match turn:
            case Turn.OPEN:
                self._thought = self._thoughts.openings[mark]
                self._thought_before = True
                self._enter(at_start=True)
            case Turn.CLOSE if self._thought is None:
                # Without its opening, the mark is all that parts the thought from the answer.
                self._show("" if self._thought_before else mark.replace(SIGN, ""))
            case Turn.CLOSE:
                self._thought = None
                self._enter(at_start=True)
            case Turn.CALL:
                self._thought = None
                self._enter(at_start=False)
                return mark
            case Turn.ANSWER:
                self._thought = None
                self._closings = self._thoughts.answers[mark]
                self._enter(at_start=False)
            case Turn.ANSWERED:
                self._enter(at_start=False)
            case Turn.SKIP:
                pass
        return ""

    def _enter(self, *, at_start: bool) -> None:
        """Go on in a new state: white space before the mark is dropped where it has waited, and that after it."""
        self._gap = Gap(after_call=True)
        self._at_start = at_start
        self._after_mark = True
        self._separated = not self._reasoned

    def _show(self, text: str) -> None:
        if self._thought is not None:
            text = self._gap.show(text)
            if text:
                self._reasoning += [text] if self._separated else ["\n", text]
                self._reasoned = self._separated = True
        elif self._closings:
            self._content.append(self._gap.show(text))
        else:
            text = text.lstrip() if self._after_mark else text
            self._after_mark = self._after_mark and not text
            self._content.append(text)


def _mark_at(text: str, marks: Iterable[str], *, final: bool) -> tuple[str, bool]:
    """The longest mark that `text` begins with, "" if none does, and whether more text could make it a longer one."""
    found = max((mark for mark in marks if text.startswith(mark)), key=len, default="")
    waits = not final and any(mark.startswith(text) and mark != text for mark in marks if len(mark) > len(found))
    return found, waits


def _first(text: str, marks: Iterable[str], *, final: bool) -> int:
    """Where the first mark begins, or may begin if more text follows; the text's length if there is none."""
    ends = [end for mark in marks if (end := text.find(mark)) >= 0]
    beginnings = [] if final else [len(text) - overlap(text, mark) for mark in marks]
    return min([*ends, *beginnings, len(text)])
