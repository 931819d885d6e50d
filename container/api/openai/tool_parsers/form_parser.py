"""Reads calls of any form of the table, wherever the text is cut. Text that turns out to be no call is content."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from container.api.openai.parts import CallArguments, CallStart, Content, Part, joined
from container.api.openai.tool_parsers.call_list import CallList
from container.api.openai.tool_parsers.form import NUMBER, Arguments, Form
from container.api.openai.tool_parsers.json_value import ValueScanner
from container.api.openai.tool_parsers.marker import Gap, overlap
from container.api.openai.tool_parsers.python_calls import PythonCalls
from container.api.openai.tool_parsers.quoted_arguments import NotArguments, QuotedArguments, quoted_as_json
from container.api.openai.tool_parsers.tagged_arguments import TaggedArguments

# A name, its id and the marks between them; longer text is not a call.
_MAX_HEAD_CHARS = 256
_NEVER = re.compile(r"(?!)")
_IN_OBJECT = frozenset([Arguments.OBJECT, Arguments.KEYED])


class FormParser:
    """Content passes as it comes, without white space next to a call.

    Each state takes the waiting text and returns the rest of it, or None if it needs more. `_raw` is what the current
    call has taken so far; it becomes content if there is no call.
    """

    def __init__(self, form: Form, schemas: Mapping[str, dict[str, Any]]) -> None:
        self._form = form
        self._schemas = schemas
        self._names = frozenset(schemas)
        self._begins = _any_of(form.begins)
        self._head_end = _any_of(_head_ends(form))
        self._longest_end = max(map(len, _head_ends(form)), default=0)
        self._head_text = re.compile(form.head or _head(form))
        self._gap = Gap()
        self._parts: list[Part] = []
        self._waiting = ""
        self._raw = ""
        self._called = False
        self._calls: CallList | PythonCalls | None = None
        self._arguments: TaggedArguments | _JsonArguments | None = None
        self._quoted: QuotedArguments | None = None
        self._name = ""
        begins_inside = bool(form.opening or form.begin)
        self._state: Callable[[str], str | None] = self._outside if begins_inside else self._section
        if form.begun:
            self._state = self._head

    def push(self, text: str) -> list[Part]:
        """The parts that `text` completes."""
        rest: str | None = self._waiting + text
        self._waiting = ""
        while rest:
            rest = self._state(rest)
        parts, self._parts = self._parts, []
        return joined(parts)

    def flush(self) -> list[Part]:
        """The parts held back so far; call it at the end of the answer. A truncated call stays as it is."""
        if self._calls is not None:
            self._take(self._calls.flush())
        if self._arguments is not None:
            self._parts.append(CallArguments(self._arguments.flush()))
        quoted = self._quoted.raw if self._quoted is not None else ""
        waiting = "" if self._called and self._waiting in self._form.ends else self._waiting
        self._show_raw(quoted + waiting)
        self._parts.append(Content(self._gap.flush()))
        parts, self._parts = self._parts, []
        return joined(parts)

    def _outside(self, text: str) -> str | None:
        found = self._begins.search(text)
        if found is None:
            held = max((overlap(text, mark) for mark in self._form.begins), default=0)
            self._show(text[: len(text) - held])
            return self._wait(text[len(text) - held :])
        self._show(text[: found.start()])
        self._called, self._raw = False, found[0]
        self._state = self._section if found[0] == self._form.opening else self._head
        return text[found.end() :]

    def _section(self, text: str) -> str | None:
        """Before the first call of a section, and after each call."""
        begun = self._skip_space(text)
        marks = (*self._form.begins, *self._form.ends)
        if not begun or any(len(begun) < len(mark) and mark.startswith(begun) for mark in marks):
            return self._wait(begun)
        mark = max((mark for mark in marks if begun.startswith(mark)), key=len, default="")
        rest = begun[len(mark) :]
        if not self._called and (not mark or mark in self._form.drops):
            return self._enter(begun, mark)
        if mark and mark in self._form.begins:
            self._raw = mark if self._called else self._raw + mark
            self._called = False
            self._state = self._section if mark == self._form.opening else self._head
            return rest
        if not self._called:
            return self._no_call(begun)
        if self._form.begun and not self._form.begin:
            self._called, self._state = False, self._head
        elif not mark or mark == self._form.closing or (mark == self._form.end and not self._form.opening):
            self._state = self._outside
        return rest

    def _enter(self, begun: str, mark: str) -> str | None:
        """The arguments' own beginning, or text that may stand before it."""
        if mark:
            self._raw += mark
            return begun[len(mark) :]
        in_python = self._form.arguments is Arguments.PYTHON and bool(self._form.opening or begun[0] == "[")
        if in_python or (self._form.arguments is not Arguments.PYTHON and begun[0] in "{["):
            return self._list(begun)
        return self._no_call(begun)

    def _head(self, text: str) -> str | None:
        """After the mark of a call: the arguments' own beginning, or the function's name."""
        spoken = self._form.spoken
        if spoken and len(text) < len(spoken) and spoken.startswith(text):
            return self._wait(text)
        if spoken and text.startswith(spoken):
            self._raw, self._state = "", self._outside
            return text[len(spoken) :]
        begun = self._skip_space(text)
        if not begun:
            return None
        if begun[0] in "{[" or self._form.arguments is Arguments.PYTHON:
            return self._list(begun)
        found = self._head_end.search(begun)
        if found is None and len(begun) <= _MAX_HEAD_CHARS + self._longest_end and not self._hopeless(begun):
            return self._wait(begun)
        if found is None or found.start() > _MAX_HEAD_CHARS:
            return self._no_call(begun)
        head = self._head_text.fullmatch(begun[: found.start()].strip())
        if head is None or head["name"] not in self._names:
            return self._no_call(begun)
        return self._begin_call(head, begun, found)

    def _hopeless(self, begun: str) -> bool:
        """Whether a text without a mark before it cannot be a call, so that it need not wait."""
        if not self._form.begun:
            return self._form.arguments in _IN_OBJECT and not self._form.head
        known = (name for name in self._names if name.startswith(begun) or begun.startswith(name))
        return not any(len(begun) <= len(name) or begun[len(name) :].isspace() for name in known)

    def _begin_call(self, head: re.Match[str], begun: str, end: re.Match[str]) -> str | None:
        name, tags = head["name"], self._form.tags
        if self._form.arguments in _IN_OBJECT:
            return self._list(begun[end.start() :])
        if self._form.arguments is Arguments.QUOTED:
            self._raw += begun[: end.start()]
            self._name, self._quoted, self._state = name, QuotedArguments(self._form.quotes), self._in_quoted
            return begun[end.start() :]
        self._start(name, head.groupdict().get("id") or "")
        if tags is not None:
            self._arguments, self._state = TaggedArguments(tags, self._schemas[name]), self._in_arguments
            after_name = end[0] not in {tags.key_open, self._form.end}
            return (begun[end.end() :] if after_name else begun[end.start() :]) or self._wait("")
        if end[0] == "{":
            self._arguments, self._state = _JsonArguments(), self._in_arguments
        else:
            self._parts.append(CallArguments("{}"))
            self._state = self._section
        return begun[end.start() :]

    def _start(self, name: str, call_id: str = "") -> None:
        self._gap.call()
        self._parts.append(CallStart(name, call_id))
        self._called, self._raw = True, ""

    def _in_arguments(self, text: str) -> str | None:
        arguments = self._arguments
        if arguments is None:
            return text
        written, rest = arguments.push(text)
        self._parts.append(CallArguments(written))
        if rest is None:
            return None
        self._arguments, self._state = None, self._section
        return rest

    def _in_quoted(self, text: str) -> str | None:
        quoted = self._quoted
        if quoted is None:
            return text
        rest = quoted.push(text)
        if rest is None:
            return None
        self._quoted = None
        try:
            written = quoted_as_json(quoted.raw, self._form.quotes, self._schemas[self._name])
        except NotArguments:
            return self._no_call(quoted.raw + rest)
        self._start(self._name)
        self._parts.append(CallArguments(written))
        self._state = self._section
        return rest

    def _list(self, text: str) -> str:
        keyed = self._form.arguments is Arguments.KEYED
        in_python = self._form.arguments is Arguments.PYTHON
        self._calls = PythonCalls(self._names) if in_python else CallList(self._names, keyed=keyed)
        self._state = self._in_list
        return text

    def _in_list(self, text: str) -> str | None:
        calls = self._calls
        if calls is None:
            return text
        parts, rest = calls.push(text)
        self._take(parts)
        if rest is None:
            return None
        self._calls = None
        if not calls.started:
            return self._no_call(rest)
        self._state = self._section
        return rest

    def _take(self, parts: list[Part]) -> None:
        for part in parts:
            if isinstance(part, Content):
                self._show_raw(part.text)
            elif isinstance(part, CallStart):
                self._start(part.name)
            else:
                self._parts.append(part)

    def _no_call(self, text: str) -> str:
        """Turn the text taken so far into content; a call may begin again after it."""
        self._show_raw("")
        self._state = self._outside
        return text

    def _show_raw(self, more: str) -> None:
        """Marks that may stand alone are no content."""
        raw, self._raw = self._raw, ""
        self._show(more if raw.strip() in self._form.drops else raw + more)

    def _skip_space(self, text: str) -> str:
        begun = text.lstrip()
        if not self._called:
            self._raw += text[: len(text) - len(begun)]
        return begun

    def _show(self, text: str) -> None:
        self._parts.append(Content(self._gap.show(text)))

    def _wait(self, text: str) -> str | None:
        self._waiting = text
        return None


class _JsonArguments:
    """A JSON object that passes as the model wrote it."""

    def __init__(self) -> None:
        self._scanner = ValueScanner()

    def push(self, text: str) -> tuple[str, str | None]:
        """As `TaggedArguments.push`."""
        end = self._scanner.scan(text, 0)
        return text[:end], text[end:] if self._scanner.done else None

    def flush(self) -> str:
        """Nothing is held back."""
        return ""


def _any_of(texts: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if texts else _NEVER


def _head_ends(form: Form) -> tuple[str, ...]:
    """What may end the text between a call's mark and its arguments."""
    if form.tags is None:
        return ("{", form.end) if form.end and form.arguments is Arguments.JSON else ("{",)
    after_name = form.between.rpartition(NUMBER)[2].strip() or "\n"
    return tuple(dict.fromkeys(filter(None, (after_name, form.tags.key_open, form.end))))


def _head(form: Form) -> str:
    lead, between = form.lead.strip(), "" if form.tags is not None else form.between.strip()
    return rf"(?:{re.escape(lead)})?\s*(?P<name>[\w.-]+)\s*(?:{re.escape(between)})?"
