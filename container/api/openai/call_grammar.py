"""Grammars that hold a model to well-formed tool calls, in the form its family was taught.

Lark in llguidance's dialect. Each function's schema stands in a `%json` of its own, so that `$ref` finds its root.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from container.api.openai.tool_parsers import Family
from container.api.openai.tool_parsers.family import HERMES_TAGS, PHI_TAGS
from container.api.openai.tool_parsers.mistral import ARGUMENTS, MARKER
from container.api.openai.tools import Function, ToolUse
from handler.protocol import Grammar, GrammarKind

# A model that is held to its form but not to an end would call for ever.
_MAX_CALLS = 16
# Enough for every usual layout. Unbounded white space is a trap small models never leave.
_LAYOUT = {"whitespace_pattern": r"(\n {0,16}| ?)"}

TokenId = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class _Form:
    """How a call is written: `before`, the name, `between`, the arguments, `after`; then the next after `separator`.

    All calls together stand between `opening` and `closing`.
    """

    before: str
    between: str
    after: str
    separator: str = "\n"
    opening: str = ""
    closing: str = ""


def _json_form(arguments: str = "arguments", **around: str) -> _Form:
    return _Form('{"name": "', f'", "{arguments}": ', "}", **around)


_FORMS: dict[Family, _Form] = {
    Family.HERMES: _Form(
        HERMES_TAGS[0] + '\n{"name": "',
        '", "arguments": ',
        "}\n" + HERMES_TAGS[1],
    ),
    Family.PHI: _Form(PHI_TAGS[0] + '{"name": "', '", "arguments": ', "}" + PHI_TAGS[1]),
    Family.LLAMA: _json_form("parameters", separator="; "),
    Family.MISTRAL: _json_form(separator=", ", opening=MARKER + "[", closing="]"),
    Family.MISTRAL_NAMED: _Form(MARKER, ARGUMENTS, "", separator=""),
    Family.PYTHONIC: _json_form(),
    Family.PLAIN: _json_form(),
}


def forced_calls(use: ToolUse, family: Family, control_token: TokenId) -> Grammar:
    """One call of the forced functions, or several if they may be parallel.

    `control_token` gives the id of a marker that is a control token of this model, None for plain text.
    """
    rules = _Rules(control_token)
    return Grammar(GrammarKind.LARK, rules.text(f"start: {rules.calls(use.forced, _FORMS[family], use.parallel)}"))


def answer_or_calls(schema: Any, use: ToolUse, family: Family, control_token: TokenId) -> Grammar:
    """Either a JSON answer after `schema` or calls of any function."""
    rules = _Rules(control_token)
    calls = rules.calls(use.functions, _FORMS[family], use.parallel)
    rules.add(f"answer: {_json(schema)}")
    return Grammar(GrammarKind.LARK, rules.text(f"start: answer | {calls}"))


class _Rules:
    """Lark rules, as they are needed."""

    def __init__(self, control_token: TokenId) -> None:
        self._control_token = control_token
        self._rules: list[str] = []

    def add(self, rule: str) -> None:
        self._rules.append(rule)

    def text(self, start: str) -> str:
        return "\n".join(["%llguidance {}", start, *self._rules, ""])

    def calls(self, functions: tuple[Function, ...], form: _Form, parallel: bool) -> str:
        """An expression for one call or, if `parallel`, several."""
        for i, function in enumerate(functions):
            parts = [form.before + function.name + form.between, form.after]
            self.add(f"call_{i}: {self._literal(parts[0])} arguments_{i} {self._literal(parts[1])}")
            self.add(f"arguments_{i}: {_json(_arguments(function))}")
        self.add("call: " + " | ".join(f"call_{i}" for i in range(len(functions))))
        more = f"({self._literal(form.separator)} call){{0,{_MAX_CALLS - 1}}}" if parallel else ""
        return " ".join(filter(None, [self._literal(form.opening), "call", more, self._literal(form.closing)]))

    def _literal(self, text: str) -> str:
        """`text` as Lark, its markers as control tokens where they are such."""
        pieces: list[str] = []
        while text:
            place, marker = _first_marker(text)
            token_id = self._control_token(marker) if marker else None
            if place:
                pieces.append(json.dumps(text[:place], ensure_ascii=False))
            if marker:
                pieces.append(json.dumps(marker) if token_id is None else f"<[{token_id}]>")
            text = text[place + len(marker) :]
        return " ".join(pieces)


_MARKERS = tuple(dict.fromkeys(marker for family in Family for marker in family.markers))


def _first_marker(text: str) -> tuple[int, str]:
    """Where the first marker stands; the text's length and "" if there is none."""
    found = [(place, marker) for marker in _MARKERS if (place := text.find(marker)) >= 0]
    return min(found, default=(len(text), ""))


def _arguments(function: Function) -> dict[str, Any]:
    """Arguments are an object, whatever else the schema leaves open; a function without parameters takes none."""
    if not function.parameters.get("properties") and "additionalProperties" not in function.parameters:
        return {**function.parameters, "type": "object", "additionalProperties": False}
    return {"type": "object", **function.parameters}


def _json(schema: Any) -> str:
    laid_out = {**schema, "x-guidance": _LAYOUT} if isinstance(schema, dict) else schema
    return "%json " + json.dumps(laid_out, ensure_ascii=False)
