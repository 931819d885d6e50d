"""Tool parsers: what each family writes, wherever the text is cut, and what is no call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from container.api.openai.parts import CallArguments, CallStart, Content, Part, joined
from container.api.openai.tool_parsers import Family, parser_of

SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {"properties": {"city": {"$ref": "#/$defs/c"}}, "$defs": {"c": {"type": "string"}}},
    "now": {"properties": {"n": {"type": "integer"}, "s": {"type": "string"}, "b": {"type": ["boolean", "null"]},
                           "u": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
    "a.b-c": {},
}  # fmt: skip
TEMPLATES = Path(__file__).resolve().parents[2] / "data" / "chat_templates"
F = Family


def read(family: Family, pieces: list[str], schemas: dict[str, dict[str, Any]] = SCHEMAS) -> list[Part]:
    parser = parser_of(family, schemas)
    parts: list[Part] = []
    for piece in pieces:
        parts += parser.push(piece)
    return joined(parts + parser.flush())


def said(parts: list[Part]) -> list[str | tuple[str, str]]:
    """Content as text, calls as (name, arguments)."""
    found: list[str | tuple[str, str]] = []
    for part in parts:
        match part:
            case Content(text):
                found.append(text)
            case CallStart(name):
                found.append((name, ""))
            case CallArguments(fragment):
                last = found.pop()
                assert isinstance(last, tuple)
                found.append((last[0], last[1] + fragment))
    return found


PARIS = '{"city": "Paris"}'
CASES = [
    # Hermes and Qwen
    (F.HERMES, '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', [("weather", PARIS)]),
    (
        F.HERMES,
        'I look.\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>{"name": "now", "arguments": {}}</tool_call>',
        ["I look.", ("weather", PARIS), ("now", "{}")],
    ),
    (
        F.HERMES,
        'a <tool_call>{"arguments": {"x": [1]}, "name": "now"}</tool_call> b',
        ["a", ("now", '{"x": [1]}'), "b"],
    ),
    (F.HERMES, '<tool_call>{"name": "now"}</tool_call>', [("now", "{}")]),
    (F.HERMES, '<tool_call>{"name": "now", "arguments": null}</tool_call>', [("now", "{}")]),
    (F.HERMES, '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}</tool_call>', [("now", '{"a": 1}')]),
    (
        F.HERMES,
        '<tool_call>{"name": "now", "arguments": {"a": "}\\"{[</tool_call>"}}',
        [("now", '{"a": "}\\"{[</tool_call>"}')],
    ),
    (F.HERMES, '<tool_call>{"name": "now", "arguments": {"a": "cut of', [("now", '{"a": "cut of')]),
    (F.HERMES, '<tool_call>{"name": "now", "arguments": {}}{"name": "now", "arguments": {}}', [("now", "{}")] * 2),
    (
        F.HERMES,
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        ['<tool_call>{"name": "other", "arguments": {}}</tool_call>'],
    ),
    (F.HERMES, "<tool_call>oops</tool_call> x", ["<tool_call>oops</tool_call> x"]),
    (F.HERMES, '<tool_call>{"nam', ['<tool_call>{"nam']),
    (F.HERMES, "a <tool_c and <tool_call", ["a <tool_c and <tool_call"]),
    (F.HERMES, "plain \n", ["plain \n"]),
    (F.HERMES, '{"name": "now", "arguments": {}}', ['{"name": "now", "arguments": {}}']),
    # Phi-4
    (F.PHI, '<|tool_call|>[{"name": "now", "arguments": {"a": 1}}]<|/tool_call|>', [("now", '{"a": 1}')]),
    # Llama 3
    (F.LLAMA, '{"name": "weather", "parameters": {"city": "Paris"}}', [("weather", PARIS)]),
    (
        F.LLAMA,
        '<|python_tag|>{"name": "now", "parameters": {}}; {"name": "now", "parameters": {"a": 2}}',
        [("now", "{}"), ("now", '{"a": 2}')],
    ),
    (F.LLAMA, '{"name": "Bob", "parameters": {}}', ['{"name": "Bob", "parameters": {}}']),
    (F.LLAMA, '{"type": "function", "name": "now", "parameters": {"a": {"b": []}}}', [("now", '{"a": {"b": []}}')]),
    (F.LLAMA, "[1] is a footnote", ["[1] is a footnote"]),
    (F.LLAMA, '{"answer": 42}', ['{"answer": 42}']),
    (F.LLAMA, "Hello {world}", ["Hello {world}"]),
    (F.LLAMA, "<|python", ["<|python"]),
    # Python lists
    (F.PYTHONIC, '[weather(city="Paris"), now()]', [("weather", '{"city":"Paris"}'), ("now", "{}")]),
    (
        F.PYTHONIC,
        "[now(a=[1, -2.5], b={'k': None}, c=True, d='it\\'s ])\\u00e9')]",
        [("now", '{"a":[1,-2.5],"b":{"k":null},"c":true,"d":"it\'s ])é"}')],
    ),
    (F.PYTHONIC, "<|python_start|>[a.b-c(x=1)]", [("a.b-c", '{"x":1}')]),
    (F.PYTHONIC, "[now(), then I", [("now", "{}"), ", then I"]),
    (F.PYTHONIC, "[1, 2]", ["[1, 2]"]),
    (F.PYTHONIC, '[__import__("os")]', ['[__import__("os")]']),
    (F.PYTHONIC, "[now(a=open('x'))]", ["[now(a=open('x'))]"]),
    (F.PYTHONIC, "[now(a=1", ["[now(a=1"]),
    (F.PYTHONIC, "plain", ["plain"]),
    # Mistral
    (
        F.MISTRAL,
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]',
        [("weather", PARIS), ("now", "{}")],
    ),
    (
        F.MISTRAL,
        'So: [TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}',
        ["So:", ("weather", PARIS), ("now", "{}")],
    ),
    (F.MISTRAL, '[TOOL_CALLS]weather{"city": "Paris"}', [("weather", PARIS)]),
    (F.MISTRAL, "[TOOL_CALLS]nothing here", ["[TOOL_CALLS]nothing here"]),
    (F.MISTRAL, '[TOOL_CALLS]other[ARGS]{"a": 1}', ['[TOOL_CALLS]other[ARGS]{"a": 1}']),
    (F.MISTRAL, '[TOOL_CALLS][{"name": "other"}]', ['[TOOL_CALLS][{"name": "other"}]']),
    (F.MISTRAL, "[TOOL_CALLS][1]", ["[TOOL_CALLS][1]"]),
    # Qwen3-Coder
    (
        F.QWEN_XML,
        "I look.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=now>\n</function>\n</tool_call>",
        ["I look.", ("weather", PARIS), ("now", "{}")],
    ),
    (
        F.QWEN_XML,
        '<function=now><parameter=n>\n3\n</parameter><parameter=s>\n"3"\n<b>\n\n</parameter><parameter=b>True</parameter>'
        "</function> z",
        [("now", '{"n": 3, "s": "\\"3\\"\\n<b>\\n", "b": true}'), "z"],
    ),
    (
        F.QWEN_XML,
        "<tool_call>\n<function=now>\n<parameter=u>null</parameter>\n<parameter=n>three</parameter>\n"
        '<parameter=free>[1, {"a": 2}]</parameter></function></tool_call>',
        [("now", '{"u": null, "n": "three", "free": [1, {"a": 2}]}')],
    ),
    (
        F.QWEN_XML,  # JSON of a type the schema does not name is text
        "<function=now>\n<parameter=u>5</parameter>\n<parameter=b>3</parameter>\n<parameter=n>2.5</parameter></function>",
        [("now", '{"u": "5", "b": "3", "n": "2.5"}')],
    ),
    (F.QWEN_XML, "<function=now>\n<parameter=s>\n</parameter>\n</function>", [("now", '{"s": ""}')]),
    (F.QWEN_XML, "<function=now>\n<parameter=s>\ncut of", [("now", '{"s": "cut of')]),
    (F.QWEN_XML, "<function=now>\n<parameter=n>\n12", [("now", '{"n": ')]),
    (F.QWEN_XML, "<function=now>\n<parameter=s>é\n</para", [("now", '{"s": "é\\n</para')]),
    (F.QWEN_XML, "<function=now>\nNo more. <", [("now", "{}"), "No more. <"]),
    (F.QWEN_XML, "<tool_call>\n<function=rm>\n</function>", ["<tool_call>\n<function=rm>\n</function>"]),
    (F.QWEN_XML, "<tool_call> what <function=now", ["<tool_call> what <function=now"]),
    (F.QWEN_XML, "a < b <tool_c", ["a < b <tool_c"]),
    (F.QWEN_XML, '<tool_call>{"name": "now"}</tool_call>', ['<tool_call>{"name": "now"}</tool_call>']),
    # No form of its own
    (
        F.PLAIN,
        '{"name": "now", "arguments": {"a": 1}}\n{"name": "weather", "arguments": {}}',
        [("now", '{"a": 1}'), ("weather", "{}")],
    ),
    (F.PLAIN, '```json\n{"name": "now"}', ['```json\n{"name": "now"}']),
]


@pytest.mark.parametrize(("family", "text", "expected"), CASES, ids=lambda value: str(value)[:60])
def test_a_familys_calls_wherever_the_text_is_cut(family: Family, text: str, expected: list[object]) -> None:
    assert said(read(family, [text])) == expected
    assert said(read(family, list(text))) == expected
    for place in range(1, len(text)):
        assert said(read(family, [text[:place], text[place:]])) == expected, place


ALPHABET = [
    "<tool_call>",
    "</tool_call>",
    "<function=now>",
    "</function>",
    "<parameter=n>",
    "<parameter=s>",
    "</parameter>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|python_tag|>",
    '{"name": "now"',
    ', "arguments": {',
    '"',
    "\\",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    " ",
    "\n",
    "now",
    "now(",
    "a=",
    "1",
    "x",
    "é",
    "<",
    "|",
]


@settings(max_examples=300)
@given(st.sampled_from(Family), st.lists(st.sampled_from(ALPHABET), max_size=20), st.data())
def test_parts_do_not_depend_on_the_cuts(family: Family, words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(family, pieces) == read(family, [text])


@settings(max_examples=200)
@given(st.sampled_from(Family), st.lists(st.sampled_from(ALPHABET), max_size=20))
def test_without_tools_to_call_all_is_content(family: Family, words: list[str]) -> None:
    text = "".join(words)
    parts = read(family, list(text), {})
    assert all(isinstance(part, Content) for part in parts)
    shown = "".join(part.text for part in parts if isinstance(part, Content))
    assert "".join(shown.split()) in {"".join(text.split()), "".join(text.replace("<|python_tag|>", "", 1).split())}


def test_arguments_stream_before_the_call_is_complete() -> None:
    parser = parser_of(Family.HERMES, SCHEMAS)
    parts = parser.push('<tool_call>{"name": "now", "arguments": {"a": "b')
    assert parts == [CallStart("now"), CallArguments('{"a": "b')]
    assert parser.push("c") == [CallArguments("c")]


def test_a_text_argument_of_xml_streams_as_json() -> None:
    parser = parser_of(Family.QWEN_XML, SCHEMAS)
    told = parser.push('<function=now><parameter=s>\nsay "a')
    assert told == [CallStart("now"), CallArguments('{"s": "say \\"a')]
    assert parser.push("b\n") == [CallArguments("b")]
    assert parser.push("</parameter>") == [CallArguments('"')]


@pytest.mark.parametrize("family", Family)
def test_work_grows_with_the_text_only(family: Family) -> None:
    """A parser that rescans or copies what it holds does not come to an end here."""
    beginning = {
        Family.PYTHONIC: '[now(a="', Family.MISTRAL: '[TOOL_CALLS][{"name": "now", "x": "',
        Family.MISTRAL_NAMED: "[TOOL_CALLS]now[ARGS]{", Family.LLAMA: '{"x": "', Family.PLAIN: '{"x": "',
        Family.PHI: '<|tool_call|>{"x": "', Family.HERMES: '<tool_call>{"x": "',
        Family.QWEN_XML: "<function=now><parameter=n>",
    }[family]  # fmt: skip
    parser = parser_of(family, SCHEMAS)
    parser.push(beginning)
    for _ in range(100_000):
        parser.push("x")
    parser.flush()


def test_deeply_nested_literals_are_no_call() -> None:
    text = "[now(a=" + "[" * 5000 + "]" * 5000 + ")]"
    assert said(read(Family.PYTHONIC, [text])) == [text]


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("qwen2.5", Family.HERMES),
        ("qwen3", Family.HERMES),
        ("llama-3.3", Family.LLAMA),
        ("mistral-nemo", Family.MISTRAL),
        ("phi-4-mini", Family.PHI),
        ("smollm2", Family.PLAIN),
        ("xml-calls", Family.QWEN_XML),
        ("pythonic", Family.PYTHONIC),
    ],
)
def test_the_template_tells_the_family(template: str, family: Family) -> None:
    assert Family.of((TEMPLATES / f"{template}.jinja").read_text()) is family


def test_pythonic_arguments_are_json() -> None:
    (_, arguments), *_ = said(read(Family.PYTHONIC, ['[now(a="\\ud800", b=1e3, c=(1, 2), d={1: "x"})]']))
    assert json.loads(arguments) == {"a": "\ufffd", "b": 1000.0, "c": [1, 2], "d": {"1": "x"}}
