"""Grammars of constrained answers in harmony: Lark in llguidance's dialect. Thoughts may come first."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from container.api.openai.argument_grammar import answer_value, json_arguments
from container.api.openai.harmony.marks import CHANNEL, CONSTRAIN, END, MESSAGE, START, Header, Place, end_of
from container.api.openai.tools import Function, ToolUse
from container.api.validation import at_place
from container.errors import InvalidRequest
from handler.seam.protocol import Grammar, GrammarKind

# Without limits, a constrained model could think or write calls for ever.
_MAX_THOUGHTS = 16
_MAX_CALLS = 16
_ANY_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
_NEXT = f"{END}{START}assistant"


def harmony_grammar(
    answer: Grammar | None, use: ToolUse | None, prompt: str, id_of: Callable[[str], int | None]
) -> Grammar | None:
    """The constraint on an answer that begins where `prompt` ends; `id_of` gives the id of a mark that is one token.

    `answer` constrains the final message. Forced functions leave calls only. Otherwise calls are held to the schemas of
    strict functions, or stand beside the constrained answer. Raises InvalidRequest.
    """
    place, given = end_of(prompt)
    if answer is None and (use is None or not (use.forced or use.strict)):
        return None
    begun = place is Place.BODY and not Header.read(given).is_thought
    if begun and (use is None or not use.forced):
        if use is not None:
            raise InvalidRequest("`tools` cannot constrain an answer that is continued", param="tools")
        return answer
    rules = _Rules(id_of)
    before = {Place.HEADER: "", Place.BETWEEN: rules.text(f"{START}assistant"), Place.BODY: rules.rest_of_body()}[place]
    return rules.grammar(f"{before} {rules.messages(answer, use)}")


class _Rules:
    """Collects Lark rules."""

    def __init__(self, id_of: Callable[[str], int | None]) -> None:
        self._id_of = id_of
        self._rules = ["TEXT: /(.|\\n)*/"]
        self._places = {"": "tools"}

    def grammar(self, start: str) -> Grammar:
        source = "\n".join(["%llguidance {}", f"start: {start}", *self._rules, ""])
        return Grammar(GrammarKind.LARK, source, self._places)

    def messages(self, answer: Grammar | None, use: ToolUse | None) -> str:
        """Thoughts, then what is asked for."""
        thought = self._message("analysis", f"TEXT {self.text(_NEXT)}")
        if use is not None and use.forced:
            return f"({thought}){{0,{_MAX_THOUGHTS}}} {self._calls(use.forced, use)}"
        if answer is None:
            assert use is not None
            functions = tuple(f if f.strict else replace(f, parameters=_ANY_OBJECT) for f in use.functions)
            preamble = self._message("commentary", f"TEXT {self.text(_NEXT)}")
            final = self._message("final", "TEXT")
            return f"({thought} | {preamble}){{0,{_MAX_THOUGHTS}}} ({final} | {self._calls(functions, use)})"
        final = self._message("final", self._answer(answer))
        found = final if use is None else f"({final} | {self._calls(use.functions, use)})"
        return f"({thought}){{0,{_MAX_THOUGHTS}}} {found}"

    def rest_of_body(self) -> str:
        """The end of a message that the prompt has begun."""
        return f"TEXT {self.text(_NEXT)}"

    def text(self, text: str) -> str:
        """`text` as Lark; marks that are added tokens become token ids."""
        pieces: list[str] = []
        while text:
            found = [(text.find(mark), mark) for mark in (START, CHANNEL, CONSTRAIN, MESSAGE, END) if mark in text]
            position, mark = min(found, default=(len(text), ""))
            token_id = self._id_of(mark) if mark else None
            pieces += [json.dumps(text[:position])] if position else []
            pieces += [json.dumps(mark) if token_id is None else f"<[{token_id}]>"] if mark else []
            text = text[position + len(mark) :]
        return " ".join(pieces)

    def _message(self, channel: str, body: str) -> str:
        return f"{self.text(f'{CHANNEL}{channel}{MESSAGE}')} {body}"

    def _answer(self, answer: Grammar) -> str:
        # Also the place of what belongs to no rule that has one.
        self._places["answer"] = self._places[""] = answer.places.get("", "")
        self._rules.append(f"answer: {answer_value(answer)}")
        return "answer"

    def _calls(self, functions: tuple[Function, ...], use: ToolUse) -> str:
        """One call or, if they may be parallel, several. The recipient's place is beside the role or the channel."""
        for i, function in enumerate(functions):
            with at_place(function.path):
                rules, arguments = json_arguments(function, f"arguments_{i}")
            self._places[f"arguments_{i}"] = function.path
            recipient = f"to=functions.{function.name}"
            heads = (f"{CHANNEL}commentary {recipient}", f" {recipient}{CHANNEL}commentary")
            kind = f'(" "? {self.text(CONSTRAIN)} "json" | " json")?'
            head = " | ".join(map(self.text, heads))
            self._rules += [*rules, f"call_{i}: ({head}) {kind} {self.text(MESSAGE)} {arguments}"]
        self._rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(functions))))
        return f"call ({self.text(_NEXT)} call){{0,{_MAX_CALLS - 1}}}" if use.parallel else "call"
