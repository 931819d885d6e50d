"""Tool parsers: what each family writes, wherever the text is cut, and what is no call."""

# ruff: noqa: RUF001 - marks of DeepSeek and StepFun have fullwidth bars

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from container.api.openai.parts import CallArguments, CallStart, Content, Part, joined
from container.api.openai.tool_parsers import FORMS, PLAIN, Form, FormParser
from tests.support.call_forms import MODELS, WIRES

SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {"properties": {"city": {"$ref": "#/$defs/c"}}, "$defs": {"c": {"type": "string"}}},
    "now": {"properties": {"n": {"type": "integer"}, "s": {"type": "string"}, "b": {"type": ["boolean", "null"]},
                           "u": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
    "a.b-c": {},
}  # fmt: skip
ALL = (*FORMS, PLAIN)
NAMED = {form.name: form for form in ALL}


def read(form: Form, pieces: list[str], schemas: dict[str, dict[str, Any]] = SCHEMAS) -> list[Part]:
    parser = FormParser(form, schemas)
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
    ("hermes", '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', [("weather", PARIS)]),
    (
        "hermes",
        'I look.\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>{"name": "now", "arguments": {}}</tool_call>',
        ["I look.", ("weather", PARIS), ("now", "{}")],
    ),
    (
        "hermes",
        'a <tool_call>{"arguments": {"x": [1]}, "name": "now"}</tool_call> b',
        ["a", ("now", '{"x": [1]}'), "b"],
    ),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', [("now", "{}")]),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', [("now", "{}")]),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}</tool_call>', [("now", '{"a": 1}')]),
    (
        "hermes",
        '<tool_call>{"name": "now", "arguments": {"a": "}\\"{[</tool_call>"}}',
        [("now", '{"a": "}\\"{[</tool_call>"}')],
    ),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": "cut of', [("now", '{"a": "cut of')]),
    ("hermes", '<tool_call>{"name": "now", "arguments": {}}{"name": "now", "arguments": {}}', [("now", "{}")] * 2),
    (
        "hermes",
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        ['<tool_call>{"name": "other", "arguments": {}}</tool_call>'],
    ),
    ("hermes", "<tool_call>oops</tool_call> x", ["<tool_call>oops</tool_call> x"]),
    ("hermes", '<tool_call>{"nam', ['<tool_call>{"nam']),
    ("hermes", "a <tool_c and <tool_call", ["a <tool_c and <tool_call"]),
    ("hermes", "plain \n", ["plain \n"]),
    ("hermes", '{"name": "now", "arguments": {}}', ['{"name": "now", "arguments": {}}']),
    # Phi-4
    ("phi-4-mini", '<|tool_call|>[{"name": "now", "arguments": {"a": 1}}]<|/tool_call|>', [("now", '{"a": 1}')]),
    # Llama 3
    ("llama-3", '{"name": "weather", "parameters": {"city": "Paris"}}', [("weather", PARIS)]),
    (
        "llama-3",
        '<|python_tag|>{"name": "now", "parameters": {}}; {"name": "now", "parameters": {"a": 2}}',
        [("now", "{}"), ("now", '{"a": 2}')],
    ),
    ("llama-3", '{"name": "Bob", "parameters": {}}', ['{"name": "Bob", "parameters": {}}']),
    ("llama-3", '{"type": "function", "name": "now", "parameters": {"a": {"b": []}}}', [("now", '{"a": {"b": []}}')]),
    ("llama-3", "[1] is a footnote", ["[1] is a footnote"]),
    ("llama-3", '{"answer": 42}', ['{"answer": 42}']),
    ("llama-3", "Hello {world}", ["Hello {world}"]),
    ("llama-3", "<|python", ["<|python"]),
    # Python lists
    ("pythonic", '[weather(city="Paris"), now()]', [("weather", '{"city":"Paris"}'), ("now", "{}")]),
    (
        "pythonic",
        "[now(a=[1, -2.5], b={'k': None}, c=True, d='it\\'s ])\\u00e9')]",
        [("now", '{"a":[1,-2.5],"b":{"k":null},"c":true,"d":"it\'s ])é"}')],
    ),
    ("pythonic", "<|python_start|>[a.b-c(x=1)]", [("a.b-c", '{"x":1}')]),
    ("pythonic", "[now(), then I", [("now", "{}"), ", then I"]),
    ("pythonic", "[1, 2]", ["[1, 2]"]),
    ("pythonic", '[__import__("os")]', ['[__import__("os")]']),
    ("pythonic", "[now(a=open('x'))]", ["[now(a=open('x'))]"]),
    ("pythonic", "[now(a=1", ["[now(a=1"]),
    ("pythonic", "plain", ["plain"]),
    # Mistral
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]',
        [("weather", PARIS), ("now", "{}")],
    ),
    (
        "mistral-v11",
        'So: [TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}',
        ["So:", ("weather", PARIS), ("now", "{}")],
    ),
    ("mistral-v11", '[TOOL_CALLS]weather{"city": "Paris"}', [("weather", PARIS)]),
    ("mistral", "[TOOL_CALLS]nothing here", ["[TOOL_CALLS]nothing here"]),
    ("mistral", '[TOOL_CALLS]other[ARGS]{"a": 1}', ['[TOOL_CALLS]other[ARGS]{"a": 1}']),
    ("mistral", '[TOOL_CALLS][{"name": "other"}]', ['[TOOL_CALLS][{"name": "other"}]']),
    ("mistral", "[TOOL_CALLS][1]", ["[TOOL_CALLS][1]"]),
    # Qwen3-Coder
    (
        "qwen3-coder",
        "I look.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=now>\n</function>\n</tool_call>",
        ["I look.", ("weather", PARIS), ("now", "{}")],
    ),
    (
        "qwen3-coder",
        '<function=now><parameter=n>\n3\n</parameter><parameter=s>\n"3"\n<b>\n\n</parameter><parameter=b>True</parameter>'
        "</function> z",
        [("now", '{"n": 3, "s": "\\"3\\"\\n<b>\\n", "b": true}'), "z"],
    ),
    (
        "qwen3-coder",
        "<tool_call>\n<function=now>\n<parameter=u>null</parameter>\n<parameter=n>three</parameter>\n"
        '<parameter=free>[1, {"a": 2}]</parameter></function></tool_call>',
        [("now", '{"u": null, "n": "three", "free": [1, {"a": 2}]}')],
    ),
    (
        "qwen3-coder",  # JSON of a type the schema does not name is text
        "<function=now>\n<parameter=u>5</parameter>\n<parameter=b>3</parameter>\n<parameter=n>2.5</parameter></function>",
        [("now", '{"u": "5", "b": "3", "n": "2.5"}')],
    ),
    ("qwen3-coder", "<function=now>\n<parameter=s>\n</parameter>\n</function>", [("now", '{"s": ""}')]),
    ("qwen3-coder", "<function=now>\n<parameter=s>\ncut of", [("now", '{"s": "cut of')]),
    ("qwen3-coder", "<function=now>\n<parameter=n>\n12", [("now", '{"n": ')]),
    ("qwen3-coder", "<function=now>\n<parameter=s>é\n</para", [("now", '{"s": "é\\n</para')]),
    ("qwen3-coder", "<function=now>\nNo more. <", [("now", "{}"), "No more. <"]),
    ("qwen3-coder", "<tool_call>\n<function=rm>\n</function>", ["<tool_call>\n<function=rm>\n</function>"]),
    ("qwen3-coder", "<tool_call> what <function=now", ["<tool_call> what <function=now"]),
    ("qwen3-coder", "a < b <tool_c", ["a < b <tool_c"]),
    ("qwen3-coder", '<tool_call>{"name": "now"}</tool_call>', [("now", "{}")]),
    # No form of its own
    (
        "plain JSON",
        '{"name": "now", "arguments": {"a": 1}}\n{"name": "weather", "arguments": {}}',
        [("now", '{"a": 1}'), ("weather", "{}")],
    ),
    ("plain JSON", '```json\n{"name": "now"}', ['```json\n{"name": "now"}']),
]


@pytest.mark.parametrize(("name", "text", "expected"), CASES, ids=lambda value: str(value)[:60])
def test_a_familys_calls_wherever_the_text_is_cut(name: str, text: str, expected: list[object]) -> None:
    assert said(read(NAMED[name], [text])) == expected
    assert said(read(NAMED[name], list(text))) == expected
    for place in range(1, len(text)):
        assert said(read(NAMED[name], [text[:place], text[place:]])) == expected, place


def parsed(parts: list[Part]) -> list[Any]:
    """As `said`, with the arguments' values."""
    return [each if isinstance(each, str) else (each[0], json.loads(each[1])) for each in said(parts)]


def test_every_row_of_the_table_has_a_wire_example() -> None:
    assert list(WIRES) == [form.name for form in ALL]
    assert WIRES.keys() == MODELS.keys()


@pytest.mark.parametrize("name", WIRES)
def test_each_form_wherever_the_text_is_cut(name: str) -> None:
    form, wire = NAMED[name], WIRES[name]
    calls = [("weather", {"city": "Paris"}), ("now", {"n": 3})]
    before = "" if not form.begins else f"{form.spoken}I look.\n\n{'>>>' if form.begun else ''}"
    after = "\nDone." if form.closing else ""
    expected = [*(["I look."] if before else []), *calls, *(["Done."] if after else [])]
    assert parsed(read(form, [wire])) == calls
    for text in {before + wire + after}:
        assert parsed(read(form, [text])) == expected
        for place in range(1, len(text)):
            assert parsed(read(form, [text[:place], text[place:]])) == expected, place
        assert parsed(read(form, list(text))) == expected


TYPED = [form for form in ALL if form.tags is not None or form.quotes]
KINDS = {
    "weather": {"properties": {"city": {"type": "string"}}},
    "now": {"properties": {"n": {"type": ["number", "boolean", "null", "array"]}}},
}


@pytest.mark.parametrize("form", TYPED, ids=lambda form: form.name)
def test_values_without_quotes_have_the_schemas_type(form: Form) -> None:
    wire = WIRES[form.name]
    for city in ("5", "true", "null", '{"a": 1}', '"quoted"', " spaced ", "a < b\n\nc", "é\u2028"):
        text = wire.replace("Paris", city)
        for pieces in ([text], list(text)):
            assert parsed(read(form, pieces, KINDS)) == [("weather", {"city": city}), ("now", {"n": 3})]
    found = re.search(r"(?<=[>:\n])3(?=[<}\n\]])", wire)
    assert found is not None
    for value in ("3.5", "-1e3", "true", "null", "[1, 2]", "12345678901234567890"):
        text = wire[: found.start()] + value + wire[found.end() :]
        assert parsed(read(form, [text], KINDS))[1] == ("now", {"n": json.loads(value)})


def test_nested_values() -> None:
    ns = "]<]minimax[>["
    schema = {"properties": {"o": {"type": "object", "properties": {"z": {"type": "string"}}}, "l": {"type": "array"}}}
    inner = f"{ns}<z>5{ns}</z>{ns}<m>{ns}<k>1{ns}</k>{ns}</m>"
    items = f"{ns}<item>1{ns}</item>\n{ns}<item>two{ns}</item>"
    calls = f'{ns}<invoke name="now">{ns}<o>{inner}{ns}</o>{ns}<l>{items}{ns}</l>{ns}</invoke>'
    expected: list[Any] = [("now", {"o": {"z": "5", "m": {"k": 1}}, "l": [1, "two"]})]
    wire = f"{ns}<tool_call>{calls}{ns}</tool_call>"
    assert parsed(read(NAMED["minimax-m3"], list(wire), {"now": schema})) == expected
    text = 'call:now{o:{z:<|"|>a}{,b<|"|>,y:[{k:1},<|"|>"<|"|>]},l:"q\\"}",e:{},f:[]}'
    expected = [("now", {"o": {"z": "a}{,b", "y": [{"k": 1}, '"']}, "l": 'q"}', "e": {}, "f": []})]
    assert parsed(read(NAMED["gemma-4"], list(f"<|tool_call>{text}<tool_call|>"), {"now": {}})) == expected


@pytest.mark.parametrize(
    "text",
    ["call:now{n:}", "call:now{n}", "call:now{:1}", "call:now{n:[1}", 'call:now{n:"\\q"}', "call:now{n:1", "call:now",
     "call:now{" + "a:{" * 3000 + "}" * 3001, "now", "call:{}", 'call:now{n:<|"|>open}'],
)  # fmt: skip
def test_malformed_calls_are_content(text: str) -> None:
    whole = f"<|tool_call>{text}<tool_call|>"
    assert said(read(NAMED["gemma-4"], [whole])) == said(read(NAMED["gemma-4"], list(whole))) == [whole]


VARIANTS = [
    ("deepseek-v3.1", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"),
    ("deepseek-v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>"),
    ("kimi-k2", "<|tool_call_begin|>now:12<|tool_call_argument_begin|><|tool_call_end|><|tool_calls_section_end|>"),
    ("kimi-k2", "<|tool_calls_section_begin|>\n<|tool_call_begin|> now <|tool_call_argument_begin|> {} "),
    ("glm-4.5", "<tool_call>now</tool_call>"),
    ("glm-4.5", "<tool_call>\nnow\n</tool_call>"),
    ("glm-4.5", '<tool_call>{"name": "now", "arguments": {}}</tool_call>'),
    ("longcat", "<longcat_tool_call>now\n{}</longcat_tool_call>"),
    ("longcat", '<longcat_tool_call>\n{"name": "now", "arguments": {}}\n</longcat_tool_call>'),
    ("minimax-m2", '<invoke name="now"></invoke>'),
    ("dots", '<dots_function_call>{"name": "now", "arguments": {}}</dots_function_call>'),
    ("step-3", '<｜tool_calls_begin｜><steptml:invoke name="now"></steptml:invoke><｜tool_calls_end｜>'),
    ("hunyuan", "<tool_calls><tool_call>now<tool_sep>{}</tool_call></tool_calls>"),
    ("hunyuan-3", "<tool_calls><tool_call>now</tool_call></tool_calls>"),
    ("tool-calls list", '<tool_calls>\n{"name": "now", "arguments": {}}\n</tool_calls>'),
    ("command-r", 'Action:```json\n[{"tool_name": "now", "parameters": {}}]\n```'),
    ("command-r", 'Action: [{"tool_name": "now", "parameters": {}}]'),
    ("cohere", '<|START_ACTION|>{"tool_name": "now", "parameters": {}}<|END_ACTION|>'),
    ("internlm", '<|action_start|> <|plugin|>\n{"name": "now", "parameters": {}}<|action_end|>'),
    ("granite-3", '<tool_call>[{"name": "now", "arguments": {}}]</tool_call>'),
    ("phi-4-mini", 'functools[{"name": "now", "arguments": {}}]'),
    ("apertus", '<|tools_prefix|>[{"now": {}}]'),
    ("olmo-3", "<function_calls>now()</function_calls>"),
    ("lfm-2", "<|tool_call_start|>now()<|tool_call_end|>"),
    ("lfm-2", "<|tool_call_start|>\n```python\nnow()\n```\n<|tool_call_end|>"),
    ("solar-open", "<|begin|>assistant<|tool_calls|><|tool_call:begin|>a1<|tool_call:name|>now<|tool_call:args|>{}"),
    ("xlam", '{"name": "now", "arguments": {}}'),
    ("pythonic", "[now()]"),
    ("pythonic", "<|python_start|>[now()]"),
    ("llama-3", '{"name": "now", "parameters": {}}'),
    ("qwen3-coder", "<tool_call>\n<function=now>\n</function>"),
    ("functionary-v3.2", "all\n>>>now\n{}"),
    ("kimi-k3", '<|open|>call tool="now"<|sep|><|close|>call<|sep|>'),
]


@pytest.mark.parametrize(("name", "text"), VARIANTS)
def test_near_spellings_are_calls_too(name: str, text: str) -> None:
    for pieces in ([text], list(text)):
        assert parsed(read(NAMED[name], pieces)) == [("now", {})]


@pytest.mark.parametrize("name", WIRES)
def test_a_call_of_no_tool_is_content(name: str) -> None:
    text = WIRES[name].replace("weather", "wether")
    parts = read(NAMED[name], [text], {"weather": {}})
    assert all(isinstance(part, Content) for part in parts)
    assert "Paris" in "".join(part.text for part in parts if isinstance(part, Content))


@pytest.mark.parametrize("name", WIRES)
def test_a_cut_call_is_never_lost(name: str) -> None:
    """Cut anywhere, the text read is there: as content, as the call so far, or as a mark."""
    form, wire = NAMED[name], WIRES[name]
    for place in range(wire.index("Pa") + 2, wire.index("Pa") + 6):
        parts = read(form, list(wire[:place]))
        found = "".join(getattr(part, "text", "") + getattr(part, "fragment", "") for part in parts)
        assert "Pa" in found or (form.tags and form.tags.cdata), place


MARKS_AS_DATA = 'a </tool_call> <|tool_call_end|> ] ) } </function> "q" \\ é\n[TOOL_CALLS]'


@pytest.mark.parametrize("name", WIRES)
def test_a_mark_inside_a_string_is_no_mark(name: str) -> None:
    form = NAMED[name]
    own = [] if form.tags else [mark for mark in (*form.begins, *form.ends) if mark != form.quotes]
    data = MARKS_AS_DATA + "".join(own)
    if form.tags or form.quotes:
        wire = WIRES[name].replace("Paris", data.replace("</function>", "").replace("</tool_call>", ""))
        data = data.replace("</function>", "").replace("</tool_call>", "")
    else:
        wire = WIRES[name].replace('"Paris"', json.dumps(data))
    for pieces in ([wire], list(wire)):
        assert parsed(read(form, pieces)) == [("weather", {"city": data}), ("now", {"n": 3})]


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
@given(st.sampled_from(ALL), st.data())
def test_parts_do_not_depend_on_the_cuts(form: Form, data: st.DataObject) -> None:
    tags = form.tags
    own = [
        form.opening,
        form.begin,
        form.lead,
        form.between,
        form.tail,
        form.end,
        form.closing,
        form.quotes,
        form.spoken,
    ]
    own += [tags.key_open, tags.key_close, tags.value_open, tags.value_close] if tags is not None else []
    words = st.sampled_from([*ALPHABET, *own, *own, *form.also, *form.drops])
    text = "".join(data.draw(st.lists(words, max_size=20)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(form, pieces) == read(form, [text])


@settings(max_examples=200)
@given(st.sampled_from(ALL), st.lists(st.sampled_from(ALPHABET), max_size=20))
def test_without_tools_to_call_all_is_content(form: Form, words: list[str]) -> None:
    text = "".join(words)
    parts = read(form, list(text), {})
    assert all(isinstance(part, Content) for part in parts)
    shown = "".join(part.text for part in parts if isinstance(part, Content))
    assert "".join(shown.split()) in {"".join(text.split()), "".join(text.replace("<|python_tag|>", "", 1).split())}


def test_arguments_stream_before_the_call_is_complete() -> None:
    parser = FormParser(NAMED["hermes"], SCHEMAS)
    parts = parser.push('<tool_call>{"name": "now", "arguments": {"a": "b')
    assert parts == [CallStart("now"), CallArguments('{"a": "b')]
    assert parser.push("c") == [CallArguments("c")]


def test_a_text_argument_of_xml_streams_as_json() -> None:
    parser = FormParser(NAMED["qwen3-coder"], SCHEMAS)
    told = parser.push('<function=now><parameter=s>\nsay "a')
    assert told == [CallStart("now"), CallArguments('{"s": "say \\"a')]
    assert parser.push("b\n") == [CallArguments("b")]
    assert parser.push("</parameter>") == [CallArguments('"')]


@pytest.mark.parametrize("name", WIRES)
def test_work_grows_with_the_text_only(name: str) -> None:
    """A parser that rescans or copies what it holds does not come to an end here."""
    parser = FormParser(NAMED[name], SCHEMAS)
    parser.push(WIRES[name][: WIRES[name].index("ris")])
    for _ in range(10_000):
        parser.push("x")
    parser.flush()


def test_deeply_nested_literals_are_no_call() -> None:
    text = "[now(a=" + "[" * 5000 + "]" * 5000 + ")]"
    assert said(read(NAMED["pythonic"], [text])) == [text]


def test_pythonic_arguments_are_json() -> None:
    (_, arguments), *_ = said(read(NAMED["pythonic"], ['[now(a="\\ud800", b=1e3, c=(1, 2), d={1: "x"})]']))
    assert json.loads(arguments) == {"a": "\ufffd", "b": 1000.0, "c": [1, 2], "d": {"1": "x"}}
