"""Grammars for well-formed tool calls in the form of the model's family: Lark in llguidance's dialect."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from container.api.openai.argument_grammar import (
    WriteArguments,
    json_arguments,
    json_value,
    python_arguments,
    xml_arguments,
)
from container.api.openai.reasoning import CLOSE, OPEN
from container.api.openai.tool_parsers import Family
from container.api.openai.tool_parsers import xml_calls as xml
from container.api.openai.tool_parsers.family import HERMES_TAGS, PHI_TAGS, PYTHON_TAG
from container.api.openai.tool_parsers.mistral import ARGUMENTS, MARKER
from container.api.openai.tools import Function, ToolUse
from handler.seam.protocol import Grammar, GrammarKind

# Without a limit, a constrained model could write calls for ever.
_MAX_CALLS = 16
_ANY_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}


@dataclass(frozen=True, slots=True)
class MarkIds:
    """The ids of marks in the model's vocabulary.

    `of` returns the id of a mark that is one added token, `of_control` only that of a control token. Text cannot hold
    a control token. Other added tokens are text, and the readers find them by their spelling.
    """

    of: Callable[[str], int | None]
    of_control: Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class _Form:
    """How a call is written: `before`, the name, `between`, the arguments, `after`; calls are split by `separator`.

    `opening` and `closing` enclose all calls. In families without a marker before calls, `starts` is a regular
    expression that matches the beginning of an answer that is a call.
    """

    before: str
    between: str
    after: str
    separator: str = "\n"
    opening: str = ""
    closing: str = ""
    arguments: WriteArguments = json_arguments
    starts: str = ""


def _json_form(arguments: str, separator: str, *, opening: str = "", closing: str = "", starts: str = "") -> _Form:
    around = (separator, opening, closing)
    return _Form('{"name": "', f'", "{arguments}": ', "}", *around, starts=starts)


_FORMS: dict[Family, _Form] = {
    Family.HERMES: _Form(
        HERMES_TAGS[0] + '\n{"name": "',
        '", "arguments": ',
        "}\n" + HERMES_TAGS[1],
    ),
    Family.QWEN_XML: _Form(
        f"{xml.OPENING}\n{xml.FUNCTION}", ">\n", f"{xml.FUNCTION_END}\n{xml.CLOSING}", arguments=xml_arguments
    ),
    Family.PHI: _Form(PHI_TAGS[0] + '{"name": "', '", "arguments": ', "}" + PHI_TAGS[1]),
    Family.LLAMA: _json_form("parameters", "; ", starts=r"\s*\{\s*\x22(name|type|function|parameters)\x22"),
    Family.MISTRAL: _json_form("arguments", ", ", opening=MARKER + "[", closing="]"),
    Family.MISTRAL_NAMED: _Form(MARKER, ARGUMENTS, "", separator=""),
    Family.PYTHONIC: _Form(
        "", "(", ")", separator=", ", opening="[", closing="]", arguments=python_arguments, starts=r"\s*\[\s*[A-Za-z_]"
    ),
    Family.PLAIN: _json_form("arguments", "\n", starts=r"\s*[\[,;]?\s*\{\s*\x22(name|arguments)\x22"),
}


def forced_calls(use: ToolUse, family: Family, mark_ids: MarkIds) -> Grammar:
    """One call of the forced functions, or several if calls may be parallel."""
    rules = _Rules(mark_ids)
    return rules.grammar(rules.calls(use.forced, _FORMS[family], use.parallel))


def answer_or_calls(schema: Any, use: ToolUse, family: Family, mark_ids: MarkIds) -> Grammar:
    """Either a JSON answer that fits `schema` or calls of any function."""
    rules = _Rules(mark_ids)
    calls = rules.calls(use.functions, _FORMS[family], use.parallel)
    rules.add(f"answer: {json_value(schema)}")
    return rules.grammar(f"answer | {calls}")


def text_with_calls(use: ToolUse, family: Family, mark_ids: MarkIds) -> Grammar:
    """Any text in which every call is well-formed; arguments of `strict` functions fit their schema."""
    rules = _Rules(mark_ids)
    functions = tuple(f if f.strict else replace(f, parameters=_ANY_OBJECT) for f in use.functions)
    form = _FORMS[family]
    if form.starts:
        return rules.grammar(rules.text_or_calls(functions, form, use.parallel))
    return rules.grammar(rules.calls_within_text(functions, form, use.parallel))


class _Rules:
    """Collects Lark rules."""

    def __init__(self, mark_ids: MarkIds) -> None:
        self._mark_ids = mark_ids
        self._rules: list[str] = []

    def add(self, rule: str) -> None:
        self._rules.append(rule)

    def grammar(self, start: str) -> Grammar:
        return Grammar(GrammarKind.LARK, "\n".join(["%llguidance {}", f"start: {start}", *self._rules, ""]))

    def calls(self, functions: tuple[Function, ...], form: _Form, parallel: bool) -> str:
        """An expression for one call or, if `parallel`, several."""
        self._call(functions, form)
        more = f"({self._literal(form.separator)} call){{0,{_MAX_CALLS - 1}}}" if parallel else ""
        return " ".join(filter(None, [self._literal(form.opening), "call", more, self._literal(form.closing)]))

    def text_or_calls(self, functions: tuple[Function, ...], form: _Form, parallel: bool) -> str:
        """Text that does not begin like a call, or calls."""
        calls = self.calls(functions, form, parallel)
        self.add(f"TEXT: /(.|\\n)*/ & ~/{form.starts}(.|\\n)*/")
        tag = self._mark_ids.of_control(PYTHON_TAG)
        tagged = "" if tag is None else f"<[{tag}]>? "
        return f"{self._marks()}(TEXT | {tagged}{calls})"

    def calls_within_text(self, functions: tuple[Function, ...], form: _Form, parallel: bool) -> str:
        """Text with calls in it; a call's first marker is where the constraint begins."""
        _, mark = _first_marker(form.opening + form.before)
        token_id = self._mark_ids.of_control(mark)
        if token_id is None:
            self.add(f"head[lazy]: /(.|\\n)*/ {json.dumps(mark)}")
        else:
            self.add(f"head: TEXT <[{token_id}]>")
        self.add("TEXT: /(.|\\n)*/")
        self.add("end: TEXT")
        if form.opening:
            inside = self.calls(functions, replace(form, opening=form.opening.removeprefix(mark)), parallel)
            return f"{self._marks()}(head {inside})? end"
        self._call(functions, replace(form, before=form.before.removeprefix(mark)))
        return f"{self._marks()}(head call){{0,{_MAX_CALLS if parallel else 1}}} end"

    def _marks(self) -> str:
        """Optional reasoning marks: text cannot contain them where they are control tokens."""
        ids = [token_id for token_id in map(self._mark_ids.of_control, (OPEN, CLOSE)) if token_id is not None]
        if ids:
            self.add("THOUGHT: /(.|\\n)*/")
        return "".join(f"(THOUGHT <[{token_id}]>)? " for token_id in ids)

    def _call(self, functions: tuple[Function, ...], form: _Form) -> None:
        for i, function in enumerate(functions):
            rules, arguments = form.arguments(function, f"arguments_{i}")
            self._rules += rules
            parts = (self._literal(form.before + function.name + form.between), arguments, self._literal(form.after))
            self.add(f"call_{i}: {' '.join(filter(None, parts))}")
        self.add("call: " + " | ".join(f"call_{i}" for i in range(len(functions))))

    def _literal(self, text: str) -> str:
        """`text` as Lark; markers that are added tokens become token ids."""
        pieces: list[str] = []
        while text:
            position, marker = _first_marker(text)
            token_id = self._mark_ids.of(marker) if marker else None
            if position:
                pieces.append(json.dumps(text[:position], ensure_ascii=False))
            if marker:
                pieces.append(json.dumps(marker) if token_id is None else f"<[{token_id}]>")
            text = text[position + len(marker) :]
        return " ".join(pieces)


_MARKERS = tuple(dict.fromkeys(marker for family in Family for marker in family.markers))


def _first_marker(text: str) -> tuple[int, str]:
    """Position of the first marker and the marker; the text's length and "" if there is none."""
    found = [(position, marker) for marker in _MARKERS if (position := text.find(marker)) >= 0]
    return min(found, default=(len(text), ""))
