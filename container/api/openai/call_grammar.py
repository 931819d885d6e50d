"""Grammars for well-formed tool calls in the form of the model's family: Lark in llguidance's dialect."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from container.api.openai.argument_grammar import answer_value, arguments_of
from container.api.openai.tool_parsers import Form
from container.api.openai.tool_parsers.form import NUMBER, SHORT_ID
from container.api.openai.tools import Function, ToolUse
from container.api.validation import at_place
from handler.seam.protocol import Grammar, GrammarKind

# Without a limit, a constrained model could write calls for ever.
_MAX_CALLS = 16
_PLACEHOLDERS = {NUMBER: "/[0-9]{1,2}/", SHORT_ID: "/[a-zA-Z0-9]{9}/"}
_JSON_TOKEN = re.compile(r'"[^"]*"|[^"\s{}\[\]:,]+|[^"]')
_ANY_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}


@dataclass(frozen=True, slots=True)
class MarkIds:
    """The ids of marks in the model's vocabulary.

    `of` returns the id of a mark that is one added token, `of_control` only that of a control token. Text cannot hold
    a control token. Other added tokens are text, and the readers find them by their spelling. `thoughts` are the
    control tokens around thoughts, in the order in which a model writes them.
    """

    of: Callable[[str], int | None]
    of_control: Callable[[str], int | None]
    thoughts: tuple[str, ...] = ()


def forced_calls(use: ToolUse, form: Form, mark_ids: MarkIds) -> Grammar:
    """One call of the forced functions, or several if calls may be parallel."""
    rules = _Rules(mark_ids, form)
    return rules.grammar(rules.calls(use.forced, use.parallel))


def answer_or_calls(answer: Grammar, use: ToolUse, form: Form, mark_ids: MarkIds) -> Grammar:
    """Either an answer that `answer` allows, or calls of any function. Raises InvalidRequest."""
    place = answer.places.get("", "")
    rules = _Rules(mark_ids, form, in_tokens=bool(form.starts))
    calls = rules.calls(use.functions, use.parallel)
    rules.add(f"answer: {answer_value(answer)}")
    rules.places["answer"] = rules.places[""] = place
    return rules.grammar(f"answer | {calls}")


def text_with_calls(use: ToolUse, form: Form, mark_ids: MarkIds) -> Grammar:
    """Any text in which every call is well-formed; arguments of `strict` functions fit their schema."""
    rules = _Rules(mark_ids, form)
    functions = tuple(f if f.strict else replace(f, parameters=_ANY_OBJECT) for f in use.functions)
    if form.starts:
        return rules.grammar(rules.text_or_calls(functions, use.parallel))
    return rules.grammar(rules.calls_within_text(functions, use.parallel))


class _Rules:
    """Collects Lark rules for calls in one form."""

    def __init__(self, mark_ids: MarkIds, form: Form, *, in_tokens: bool = False) -> None:
        """`in_tokens`: text is written in JSON's tokens, because JSON that is no call may stand in its place."""
        self._mark_ids = mark_ids
        self._in_tokens = in_tokens
        self._form = form
        self._token_ids = {mark: token_id for mark in form.marks if (token_id := mark_ids.of(mark)) is not None}
        self._rules: list[str] = []
        self.places = {"": "tools"}

    def add(self, rule: str) -> None:
        self._rules.append(rule)

    def grammar(self, start: str) -> Grammar:
        return Grammar(
            GrammarKind.LARK, "\n".join(["%llguidance {}", f"start: {start}", *self._rules, ""]), self.places
        )

    def calls(self, functions: tuple[Function, ...], parallel: bool, *, begun: str = "") -> str:
        """An expression for one call or, if `parallel`, several. The text `begun` is left out at the beginning."""
        form = self._form
        before, opening = form.begin + form.lead, form.opening + form.around[0]
        first = "first" if begun and not opening else "call"
        self._call(functions, first, before if opening else before.removeprefix(begun))
        more = ""
        if parallel:
            more = f"({self.literal(form.separator)} call){{0,{_MAX_CALLS - 1}}}"
            if first != "call":
                self._call(functions, "call", before)
        start, end = self.literal(opening.removeprefix(begun)), self.literal(form.around[1] + form.closing)
        return " ".join(filter(None, [start, first, more, end]))

    def text_or_calls(self, functions: tuple[Function, ...], parallel: bool) -> str:
        """Text that does not begin like a call, or calls."""
        calls = self.calls(functions, parallel)
        names = "|".join(re.escape(function.name) for function in functions)
        starts = self._form.starts.replace("NAMES", names)
        self.add(f"TEXT: /(.|\\n)*/ & ~/{starts}(.|\\n)*/")
        tags = [
            f"<[{token_id}]>" for tag in self._form.also if (token_id := self._mark_ids.of_control(tag)) is not None
        ]
        tagged = f"({' | '.join(tags)})? " if tags else ""
        return f"{self._marks()}(TEXT | {tagged}{calls})"

    def calls_within_text(self, functions: tuple[Function, ...], parallel: bool) -> str:
        """Text with calls in it; a call's first mark is where the constraint begins."""
        form = self._form
        mark = form.opening or form.begin
        if self.has_control(mark):
            self.add(f"head: TEXT {self.literal(mark)}")
        else:
            self.add(f"head[lazy]: /(.|\\n)*/ {json.dumps(mark, ensure_ascii=False)}")
        self.add("TEXT: /(.|\\n)*/")
        self.add("end: TEXT")
        calls = self.calls(functions, parallel and bool(form.opening), begun=mark)
        return f"{self._marks()}(head {calls}){{0,{_MAX_CALLS if parallel else 1}}} end"

    def _marks(self) -> str:
        """Optional reasoning marks: text cannot contain them where they are control tokens."""
        ids = [token_id for token_id in map(self._mark_ids.of_control, self._mark_ids.thoughts) if token_id is not None]
        if ids:
            self.add("THOUGHT: /(.|\\n)*/")
        return "".join(f"(THOUGHT <[{token_id}]>)? " for token_id in ids)

    def _call(self, functions: tuple[Function, ...], rule: str, before: str) -> None:
        form = self._form
        for i, function in enumerate(functions):
            with at_place(function.path):
                rules, arguments = arguments_of(function, f"{rule}_arguments_{i}", form, self)
            self.places[f"{rule}_arguments_{i}"] = function.path
            self._rules += rules
            parts = (self.literal(before + function.name + form.between), arguments, self.literal(form.tail + form.end))
            self.add(f"{rule}_{i}: {' '.join(filter(None, parts))}")
        self.add(f"{rule}: " + " | ".join(f"{rule}_{i}" for i in range(len(functions))))

    def literal(self, text: str) -> str:
        """`text` as Lark; marks that are added tokens become token ids.

        No lexeme may be the beginning of another that could stand in its place. So a line break is a lexeme of its own,
        but not after a name that could be text.
        """
        special = _PLACEHOLDERS | {mark: f"<[{token_id}]>" for mark, token_id in self._token_ids.items()}
        longest_first = sorted(special, key=len, reverse=True)
        pieces = re.split(
            "(" + "|".join([*([] if self._form.begun else [r"\n"]), *map(re.escape, longest_first)]) + ")", text
        )
        if self._in_tokens:
            pieces = [token for piece in pieces for token in _JSON_TOKEN.findall(piece)]
            special |= {" ": '" "?'}
        written = [special.get(piece) or json.dumps(piece, ensure_ascii=False) for piece in pieces if piece]
        return " ".join(written)

    def has_control(self, text: str) -> bool:
        """Whether the text holds a control token, which free text cannot."""
        return any(mark in text and self._mark_ids.of_control(mark) is not None for mark in self._token_ids)
