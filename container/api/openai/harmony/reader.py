"""Reads an answer in harmony while it streams: channels become reasoning, content and calls."""

from __future__ import annotations

import re

from container.api.openai.harmony.marks import CHANNEL, ENDS, MESSAGE, START, HarmonyMarks, Header, Place, end_of
from container.api.openai.parts import CallArguments, CallStart, Content, Part, Reasoning, joined
from container.api.openai.tool_parsers.json_value import ValueScanner
from container.api.openai.tool_parsers.marker import overlap

# What may stand in a header before its first mark: the role, unless the prompt has given it, and the recipient.
_RECIPIENT = re.compile(r"\s*(t(o(=\S*\s*)?)?)?")
_ROLE = re.compile(r"\s*[\w.-]*\s*(t(o(=\S*\s*)?)?)?")
_MAX_HEADER_CHARS = 512


class HarmonyReader:
    """`analysis` is reasoning, a message to a function is a call, all else is content.

    Messages of one kind are separated by a line break. Text outside of messages is content, as is a message to a
    function that the request does not name. The result does not depend on how the text was cut into pushes.
    """

    def __init__(self, marks: HarmonyMarks, names: frozenset[str], prompt: str) -> None:
        """`names` are the functions that may be called. `prompt` decides where in a message the answer begins."""
        self._marks = {text: mark for mark, text in marks.items()}
        self._names = names
        self._parts: list[Part] = []
        # Part of a mark, and the text of a header, whose beginning the prompt may hold.
        self._held = ""
        self._waiting = ""
        self._body: _Text | _Call | None = None
        self._said: set[type[Part]] = set()
        place, self._given = end_of(prompt)
        if place is Place.BODY:
            self._begin_body()

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends inside a thought."""
        return isinstance(self._body, _Text) and self._body.kind is Reasoning

    def push(self, text: str) -> list[Part]:
        """The parts that `text` completes."""
        text, self._held = self._held + text, ""
        while text:
            found = [(end, mark) for mark in self._marks if (end := text.find(mark)) >= 0]
            if not found:
                size = max(overlap(text, mark) for mark in self._marks)
                self._read(text[: len(text) - size])
                self._held = text[len(text) - size :]
                break
            end, mark = min(found)
            self._read(text[:end])
            self._turn(self._marks[mark])
            text = text[end + len(mark) :]
        return self._taken()

    def flush(self) -> list[Part]:
        """The parts held back so far; call it at the end of the answer."""
        self._read(self._held)
        self._held = ""
        self._end()
        return self._taken()

    def _taken(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return joined(parts)

    def _read(self, text: str) -> None:
        """Text without marks: more of a body or of a header. What cannot be a header's is content."""
        if self._body is not None:
            self._parts += self._body.push(text)
            return
        self._waiting += text
        allowed = _RECIPIENT if self._given else _ROLE
        is_header = CHANNEL in self._given + self._waiting or allowed.fullmatch(self._waiting) is not None
        if not is_header or len(self._waiting) > _MAX_HEADER_CHARS:
            waiting, self._waiting, self._given = self._waiting, "", ""
            self._body = _Text(Content, self._said)
            self._parts += self._body.push(waiting)

    def _turn(self, mark: str) -> None:
        if mark in ENDS or mark == START:
            self._end()
        elif self._body is None and mark == MESSAGE:
            self._begin_body()
        elif self._body is None or mark == CHANNEL:
            # A header that no <|start|> begins ends the body before it.
            if self._body is not None:
                self._end()
            self._waiting += mark

    def _begin_body(self) -> None:
        header = Header.read(self._given + self._waiting)
        self._given = self._waiting = ""
        if header.function in self._names:
            self._body = _Call()
            self._parts.append(CallStart(header.function))
        else:
            self._body = _Text(Reasoning if header.is_thought else Content, self._said)

    def _end(self) -> None:
        """The message is over. Of a header without a body only words that are no header's remain, as content."""
        if self._body is not None:
            self._parts += self._body.end()
        elif CHANNEL not in self._waiting:
            words = self._waiting.strip()
            if words and not words.startswith("to=") and not "assistant".startswith(words):
                self._parts += _Text(Content, self._said).push(self._waiting)
        self._body, self._waiting, self._given = None, "", ""


class _Text:
    """The body of a message that is reasoning or content; `said` are the kinds of text that came before."""

    def __init__(self, kind: type[Reasoning] | type[Content], said: set[type[Part]]) -> None:
        self.kind = kind
        self._said = said
        self._begun = False

    def push(self, text: str) -> list[Part]:
        follows = bool(text) and not self._begun and self.kind in self._said
        if text:
            self._begun = True
            self._said.add(self.kind)
        return [self.kind("\n" + text if follows else text)]

    def end(self) -> list[Part]:
        return []


class _Call:
    """The body of a message to a function: one JSON object. Text behind it is dropped."""

    def __init__(self) -> None:
        self._scanner = ValueScanner()
        self._is_object: bool | None = None

    def push(self, text: str) -> list[Part]:
        if self._is_object is None:
            text = text.lstrip()
            self._is_object = text.startswith("{") if text else None
        if not self._is_object:
            return [CallArguments(text)]
        end = 0 if self._scanner.done else self._scanner.scan(text, 0)
        return [CallArguments(text[:end])]

    def end(self) -> list[Part]:
        return [CallArguments("{}")] if self._is_object is None else []
