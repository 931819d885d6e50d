"""Answers read as transformers' own parser reads them, but for the differences listed here."""

# ruff: noqa: E501 - answers as a model writes them

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from transformers.utils.chat_parsing import ResponseParser
from transformers.utils.chat_parsing.content_parsers import CONTENT_PARSERS

from container.api.openai.choice import Choice
from container.api.openai.response_template import TemplateReader
from container.api.openai.response_template.control_signs import ControlSigns
from container.api.openai.response_template.loading import load
from tests.support.response_templates import SCHEMAS, TEMPLATES
from tests.unit.openai.marked_answers import read

# transformers 5.24 has python-call-list, 5.23 does not.
KNOWN = [name for name, given in TEMPLATES.items() if given["fields"]["tool_calls"].get("content") in CONTENT_PARSERS]
TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()]
REASONING = ("reasoning_content", "thinking", "reasoning")
CASES = 100
WORDS = ("Hello", " ", "\n", "\n\n", "world. ", "<", "</", "<|", "é", "{", '"', "<thin", "tool_call>", "1 < 2")
ARGUMENTS: tuple[dict[str, Any], ...] = ({}, {"city": 'a "b" \\ é'}, {"city": "x", "days": 3})

Answer = tuple[str, str, list[tuple[str, Any]]]


class Raised(Exception):
    """transformers' parser has raised ValueError, or its calls are none that a client could take."""


def theirs(name: str, text: str) -> tuple[Answer, bool]:
    """The answer, fed by character, and whether a field was read more than once, of which they keep the last."""
    parser = ResponseParser(TEMPLATES[name], prefix="", tools=TOOLS)
    try:
        events = [event for character in text for event in parser.feed(character)]
        message, more = parser.finalize()
    except ValueError as exc:
        raise Raised from exc
    opened = [event["field"] for event in [*events, *more] if event["type"] == "region_open"]
    given = TEMPLATES[name]["fields"]
    repeats = any(opened.count(field) > 1 and not given[field].get("repeats") for field in opened)
    thought = next((message[field] for field in REASONING if field in message), "")
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])]
    return (thought, message.get("content", ""), calls), repeats


def ours(name: str, text: str, pieces: list[str] | None = None) -> Answer:
    reader = TemplateReader(load(TEMPLATES[name], ControlSigns(())), SCHEMAS, "")
    found = read(Choice(None, reader), pieces or [text])
    calls = [(called, json.loads(arguments)) for called, arguments in found.calls]
    return found.reasoning, found.content or "", calls


def call(name: str, rng: random.Random) -> str:
    """A call as the template's model writes it, but for its marks in strings."""
    called, arguments = rng.choice(list(SCHEMAS)), dict(rng.choice(ARGUMENTS))
    written = json.dumps(arguments, ensure_ascii=False)
    match name:
        case "qwen3":
            return f'<tool_call>\n{{"name": "{called}", "arguments": {written}}}\n</tool_call>'
        case "gemma4":
            inner = ",".join(f'{k}:<|"|>{v}<|"|>' if isinstance(v, str) else f"{k}:{v}" for k, v in arguments.items())
            return f"<|tool_call>call:{called}{{{inner}}}<tool_call|>"
        case "gpt-oss":
            return f"<|channel|>commentary to=functions.{called} <|constrain|>json<|message|>{written}<|call|>"
        case "glm":
            tags = (f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in arguments.items())
            return f"<tool_call>{called}\n{''.join(tags)}</tool_call>"
        case "qwen3.5":
            tags = (f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
            return f"<tool_call>\n<function={called}>\n{''.join(tags)}</function>\n</tool_call>"
        case "lfm2":
            inner = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
            return f"<|tool_call_start|>[{called}({inner})]<|tool_call_end|>"
        case _:
            return f'<|START_ACTION|>[{{"tool_name": "{called}", "parameters": {written}}}]<|END_ACTION|>'


def literals(name: str) -> list[str]:
    """The marks that the template's fields name, and those of its answers."""
    found: list[str] = ["<|im_end|>", "<|start|>assistant"]
    for field in TEMPLATES[name]["fields"].values():
        for key in ("open", "close"):
            given = field.get(key, [])
            found += [given] if isinstance(given, str) else given
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_random_answers_are_read_as_transformers_reads_them(name: str) -> None:
    rng = random.Random(name)
    marks = literals(name)
    compared = 0
    for _ in range(CASES):
        kinds = rng.choices((0, 1, 2), weights=(6, 3, 2), k=rng.randrange(1, 9))
        text = "".join((rng.choice(WORDS), rng.choice(marks), call(name, rng))[kind] for kind in kinds)
        try:
            expected, repeats = theirs(name, text)
        except Raised:
            continue
        if not repeats:
            compared += 1
            assert ours(name, text) == expected, text
            assert ours(name, text, list(text)) == expected, text
    assert compared > CASES / 3


# What they make of an answer, None for an error, what we make of it, and why.
DIFFERENCES: list[tuple[str, str, Answer | None, Answer, str]] = [
    ("qwen3", '<tool_call>{"name": "now", "arguments": {"a": "</tool_call>"}}</tool_call>', None,
     ("", "", [("now", {"a": "</tool_call>"})]), "a mark in a JSON string is none"),
    ("qwen3", 'One<tool_call>{"name": "now", "arguments": {}}</tool_call>Two',
     ("", "Two", [("now", {})]), ("", "One\nTwo", [("now", {})]), "a stream has shown the first text already"),
    ("qwen3", "<think>a</think>b<think>c</think>", ("c", "b", []), ("a\nc", "b", []), "likewise for thoughts"),
    ("qwen3", "<tool_call>no JSON</tool_call>", None, ("", "<tool_call>no JSON</tool_call>", []),
     "an answer is no error: what is no call is content"),
    ("qwen3", '<tool_call>{"name": "other", "arguments": {}}</tool_call>', ("", "", [("other", {})]),
     ("", '<tool_call>{"name": "other", "arguments": {}}</tool_call>', []), "the request has no such function"),
    ("qwen3", '<tool_call>{"name": "now", "arguments": {"a": "x\ny"}}</tool_call>', None, ("", "", [("now", {"a": "x\ny"})]),
     "models write line breaks in strings as they are"),
    ("qwen3", '<tool_call>{"name": "weather", "arguments": {"days": "3"}}</tool_call>', ("", "", [("weather", {"days": 3})]),
     ("", "", [("weather", {"days": "3"})]), "JSON says its types: they are passed on as written"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "they", "we", "reason"), DIFFERENCES)
def test_differences(name: str, text: str, they: Answer | None, we: Answer, reason: str) -> None:
    try:
        found, _ = theirs(name, text)
    except Raised:
        assert they is None, reason
    else:
        assert found == they, reason
    assert ours(name, text) == we, reason
