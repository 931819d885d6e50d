"""Calls that are the whole answer: Llama 3's JSON, and the pythonic list `[f(a=1), g(b="x")]`."""

from __future__ import annotations

import ast
from typing import Any

import msgspec

from container.api.openai.parts import CallArguments, CallStart, Content, Part
from container.api.openai.tool_parsers.json_call import JsonCall

_PYTHON_TAG = "<|python_tag|>"
# Parsing Python is not incremental; an answer beyond this is prose.
_MAX_PYTHONIC_CHARS = 65_536


class LeadingJsonParser:
    """`{"name": ..., "parameters": ...}` at the very start, several separated by `;` or white space; else content."""

    def __init__(self) -> None:
        self._waiting = ""
        self._is_text = False
        self._num_calls = 0
        self._call: JsonCall | None = None

    def push(self, text: str) -> list[Part]:
        """Parts that became certain."""
        parts: list[Part] = []
        while text and not self._is_text:
            if self._call is None:
                text = self._start(text)
                continue
            parts += self._call.push(text)
            text = self._call.rest if self._call.done else ""
            if self._call.done:
                self._is_text = self._call.name is None
                self._num_calls += 1
                self._call = None
        if text:
            parts.append(Content(text))
        return parts

    def _start(self, text: str) -> str:
        """Find the brace of the next call; anything else at the start makes the answer plain text."""
        self._waiting += text
        begun = self._waiting.lstrip(" \n\t;" if self._num_calls else " \n\t")
        if begun and len(begun) < len(_PYTHON_TAG) and _PYTHON_TAG.startswith(begun):
            return ""
        begun = begun.removeprefix(_PYTHON_TAG).lstrip()
        if not begun:
            return ""
        waiting, self._waiting = self._waiting, ""
        if begun[0] != "{":
            self._is_text = True
            return waiting
        self._call = JsonCall(self._num_calls)
        return begun

    def flush(self) -> list[Part]:
        """What was held back."""
        if self._call is not None:
            return self._call.flush()
        waiting, self._waiting = self._waiting, ""
        return [Content(waiting)] if waiting and not self._num_calls else []


class PythonicParser:
    """`[get_weather(city="Paris"), now()]`: read when it is whole, with Python's own parser, literals only."""

    def __init__(self) -> None:
        self._waiting = ""
        self._is_text = False

    def push(self, text: str) -> list[Part]:
        """Content as soon as the answer cannot be a list of calls."""
        if self._is_text:
            return [Content(text)] if text else []
        self._waiting += text
        begun = self._waiting.lstrip().removeprefix(_PYTHON_TAG).lstrip()
        if (begun and begun[0] != "[" and not _PYTHON_TAG.startswith(begun)) or len(begun) > _MAX_PYTHONIC_CHARS:
            waiting, self._waiting, self._is_text = self._waiting, "", True
            return [Content(waiting)]
        return []

    def flush(self) -> list[Part]:
        """The calls, or the text if it is not a list of calls."""
        waiting, self._waiting = self._waiting, ""
        calls = _python_calls(waiting.strip().removeprefix(_PYTHON_TAG).strip())
        if calls is None:
            return [Content(waiting)] if waiting else []
        parts: list[Part] = []
        for index, (name, arguments) in enumerate(calls):
            parts.append(CallStart(index, name))
            parts.append(CallArguments(index, msgspec.json.encode(arguments).decode()))
        return parts


def _python_calls(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """`(name, arguments)` of each call in a list of calls with literal keyword arguments; None for anything else."""
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.List) or not tree.elts:
            return None
        return [_python_call(node) for node in tree.elts]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _python_call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, ast.Name | ast.Attribute):
        raise ValueError("not a call with keyword arguments")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** in a call")
        arguments[keyword.arg] = ast.literal_eval(keyword.value)
    return ast.unparse(node.func), arguments
