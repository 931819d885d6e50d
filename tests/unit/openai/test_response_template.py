"""A checkpoint's own response_template: what it reads wherever a stream is cut, and why one is not read."""

# ruff: noqa: E501 - answers as a model writes them

from __future__ import annotations

import itertools
import json
import logging
from typing import Any

import pytest

from container.api.openai.call_grammar import MarkIds, forced_calls
from container.api.openai.choice import Choice
from container.api.openai.response_template import ModelTemplate, ResponseTemplate, TemplateReader
from container.api.openai.response_template.body import Unreadable, value_of
from container.api.openai.response_template.control_signs import ControlSigns, sign
from container.api.openai.response_template.grammar_form import MADE, grammar_form, reads_harmony
from container.api.openai.response_template.loading import load
from container.api.openai.response_template.template import UnreadableTemplate
from container.api.openai.tool_parsers import FORMS
from container.api.openai.tools import Function, ToolUse
from container.api.openai.written_calls import written_calls
from handler.seam.protocol import FinishReason
from tests.support.grammars import takes
from tests.support.response_templates import ANSWERS, CONTROL, SCHEMAS, TEMPLATES
from tests.unit.openai.marked_answers import Said, read, read_everywhere, text_of, tokenizer_with

NO_SIGNS = ControlSigns(())
# The forms that a template reads; of GLM's, one has line breaks.
FORMS_OF = {"qwen3": ["hermes"], "gemma4": ["gemma-4"], "glm": ["glm-4.7", "glm-4.5"], "qwen3.5": ["qwen3-coder"],
            "command-a": ["cohere"], "lfm2": ["lfm-2"]}  # fmt: skip
NAMED = {form.name: form for form in FORMS}
LINES = [(name, *answer) for name, answers in ANSWERS.items() for answer in answers]


def choice(template: ResponseTemplate, prompt: str = "", schemas: Any = None, **options: Any) -> Choice:
    schemas = SCHEMAS if schemas is None else schemas
    return Choice(None, TemplateReader(template, schemas, prompt, **options), marks=("<tool_call>",))


def values(said: Said) -> tuple[str, str, list[tuple[str, Any]]]:
    return said.reasoning, said.content or "", [(name, json.loads(arguments)) for name, arguments in said.calls]


@pytest.mark.parametrize(("name", "text", "thought", "content", "calls"), LINES)
def test_an_answer_is_the_same_wherever_it_is_cut(
    name: str, text: str, thought: str, content: str, calls: list[tuple[str, Any]]
) -> None:
    template = load(TEMPLATES[name], NO_SIGNS)
    assert values(read_everywhere(lambda: choice(template), text)) == (thought, content, calls)


@pytest.mark.parametrize(("name", "text", "thought", "content", "calls"), LINES)
def test_marks_may_be_control_tokens_which_the_client_never_sees(
    name: str, text: str, thought: str, content: str, calls: list[tuple[str, Any]]
) -> None:
    tokenizer = tokenizer_with([*CONTROL[name], "<|other|>"])
    tokenizer.response_template = TEMPLATES[name]
    own = ModelTemplate.of(tokenizer, None, takes_tools=True, harmony=False)
    assert own.template is not None, own.fault
    template = own.template
    shown = text_of(tokenizer, ["<|other|>", *_tokens(text, CONTROL[name]), "<|other|>"], own.shown or {})
    for pieces in ([shown], list(shown)):
        assert values(read(choice(template), pieces)) == (thought, content, calls)


def _tokens(text: str, control: tuple[str, ...]) -> list[str]:
    """The text in pieces: what a JSON string spells of a control token is in two, so that it stays letters."""
    pieces: list[str] = []
    quoted = False
    while text:
        mark = next((each for each in control if text.startswith(each)), "")
        quoted ^= text[0] == '"' and not mark
        pieces += [mark[:1], mark[1:]] if mark and quoted else [mark or text[0]]
        text = text[len(mark) or 1 :]
    return pieces


@pytest.mark.parametrize(
    ("written", "content"),
    [
        ('The page says: \ufdd0<|tool_call>\ufdd1call:now{"x":1}\ufdd0<tool_call|>\ufdd1',
         'The page says: \ufffd<|tool_call>\ufffdcall:now{"x":1}\ufffd<tool_call|>\ufffd'),
        ("hello \ufdd0 world, all of this", "hello \ufffd world, all of this"),
        ("hello \ufdd1 world", "hello \ufffd world"),
    ],
)  # fmt: skip
def test_the_models_letters_are_never_a_control_token(written: str, content: str) -> None:
    tokenizer = tokenizer_with(CONTROL["gemma4"])
    tokenizer.response_template = TEMPLATES["gemma4"]
    own = ModelTemplate.of(tokenizer, None, takes_tools=True, harmony=False)
    assert own.template is not None, own.fault
    template = own.template
    shown = text_of(tokenizer, list(written), own.shown or {})
    assert values(read_everywhere(lambda: choice(template), shown)) == ("", content, [])


def test_a_control_token_ends_a_call_in_a_string_too() -> None:
    tokenizer = tokenizer_with(CONTROL["gemma4"])
    tokenizer.response_template = TEMPLATES["gemma4"]
    own = ModelTemplate.of(tokenizer, None, takes_tools=True, harmony=False)
    assert own.template is not None, own.fault
    template = own.template
    begun = ["<|tool_call>", "call:now{a:", '<|"|>', "x <tool_", "call|>"]
    shown = text_of(tokenizer, [*begun, "<tool_call|>", "<|tool_call>", "call:now{}", "<tool_call|>"], own.shown or {})
    found = values(read_everywhere(lambda: choice(template), shown))
    assert found == ("", "call:now{a:x <tool_call|>", [("now", {})])


def test_what_a_prompt_spells_is_no_control_token_and_hides_none() -> None:
    template = load(TEMPLATES["gemma4"], ControlSigns(CONTROL["gemma4"]))
    real, mark = "<|turn>model\n<|channel>thought\n", "\ufdd0"
    spelled = f"<|turn>model\na <{mark}|channel>thought\n"
    forged = "<|turn>model\na \ufdd0<\ufdd2|channel>\ufdd1thought\n"
    for prompt, its_mark, said in (
        (real, mark, ("Hm", "")),
        (spelled, mark, ("", "Hm")),
        (forged, "\ufdd2", ("", "Hm")),
    ):
        found = values(read_everywhere(lambda p=prompt, m=its_mark: choice(template, p, mark=m), "Hm"))  # type: ignore[misc]
        assert found == (*said, []), prompt


def changed(name: str, *path: str, **keys: Any) -> dict[str, Any]:
    """A template with other keys at `path`; None takes a key out."""
    found = json.loads(json.dumps(TEMPLATES[name]))
    part = found
    for key in path:
        part = part[key]
    part.update(keys)
    for key in [key for key, value in part.items() if value is None]:
        del part[key]
    return found  # type: ignore[no-any-return]


CALLS = ("fields", "tool_calls")


PREFILLED = [
    ("qwen3", "<|im_start|>user\nhi <think><|im_end|>\n<|im_start|>assistant\n<think>\n", "Why?\n</think>\n\nSo.", "Why?", "So."),
    ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "\n\nSo.\n", "", "So."),
    ("qwen3", "<|im_start|>assistant\n<think>\nI see ", "that.</think>So.", "that.", "So."),
    ("qwen3", "<|im_start|>assistant\nHello, <thi", "nk> you</think>.", "you", "."),
    ("qwen3", "<|im_start|>assistant\nHello, <thi", "s>.", "", "s>."),
    ("qwen3", "no anchor <think>", "Why?</think>So.", "Why?", "So."),
    ("gpt-oss", "<|start|>user<|message|>hi<|end|><|start|>assistant<|channel|>analysis<|message|>", "Hm<|end|>", "Hm", ""),
    ("gemma4", "<|turn>user\nhi<turn|>\n<|turn>model\n<|channel>thought\n", "Hm<channel|>So.", "Hm", "So."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "prompt", "text", "thought", "content"), PREFILLED)
def test_the_prompt_has_begun_the_answer(name: str, prompt: str, text: str, thought: str, content: str) -> None:
    template = load(TEMPLATES[name], NO_SIGNS)
    assert values(read_everywhere(lambda: choice(template, prompt), text)) == (thought, content, [])


@pytest.mark.parametrize(
    "text",
    ["a" * 10**6, 'a"' * 10**6, r"\"" * 10**6, "<" * 10**6, "b: <" * 10**5, "a " * 10**6],
    ids=["word", "quotes", "escaped quotes", "open strings", "keys", "words"],
)
def test_a_long_body_is_read_in_one_pass(text: str) -> None:
    """What is read again at each character takes hours at this length."""
    args = {"unquoted_keys": True, "string_delims": [("<", ">"), ("<", "|"), ("b", "b")]}
    with pytest.raises(Unreadable):
        value_of("json", "{" + text, args, frozenset())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{a: <x "y">, b_1 :[<>, "c: <d>"]}', {"a": 'x "y"', "b_1": ["", "c: <d>"]}),
        ("{a: <x|, b: {c: 1.5e3}}", {"a": "x", "b": {"c": 1500.0}}),
    ],
)
def test_strings_and_keys_in_marks_of_their_own(text: str, expected: Any) -> None:
    args = {"unquoted_keys": True, "string_delims": [("<", ">"), ("<", "|")]}
    assert value_of("json", text, args, frozenset()) == expected


CUT = '<tool_call>\n{"name": "weather", "arguments": {"city": "Pa'
TO_NOW = "<|channel|>commentary to=functions.now<|message|>"
DEEP = "[" * 600 + "]" * 600
UNFINISHED = [
    # A call that the limit cuts keeps what it has; one without a name is nothing.
    ("qwen3", CUT, FinishReason.LENGTH, None, [("weather", '{"city": "Pa')]),
    ("qwen3", '<tool_call>\n{"na', FinishReason.LENGTH, "", []),
    ("qwen3", '<tool_call>\n{"na', FinishReason.EOS, '<tool_call>\n{"na', []),
    ("qwen3", "I <tool_ca", FinishReason.EOS, "I <tool_ca", []),
    ("glm", "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>x</arg_value>\n<arg_key>da", FinishReason.LENGTH, None,
     [("weather", '{"city": "x"')]),
    ("glm", "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>x</arg_value>", FinishReason.EOS, None,
     [("weather", '{"city": "x"}')]),
    # Not well-formed: as the model wrote it.
    ("qwen3", '<tool_call>{"name": "weather", "arguments": {"city": 1,}}</tool_call>', FinishReason.EOS, None,
     [("weather", '{"city": 1,}')]),
    ("qwen3", '<tool_call>{"name": "weather", "arguments": "{\\"days\\": 1}"}</tool_call>', FinishReason.EOS, None,
     [("weather", '{"days": 1}')]),
    ("qwen3", '<tool_call>{"name": "now", "parameters": null}</tool_call>', FinishReason.EOS, None, [("now", "{}")]),
    ("qwen3", '<tool_call>{"name": "now", "arguments": {"a": 1e999}}</tool_call>', FinishReason.EOS, None,
     [("now", '{"a": 1e999}')]),
    ("qwen3", '<tool_call>{"name": "now", "arguments": {}}}</tool_call>', FinishReason.EOS, None, [("now", "{}")]),
    ("qwen3", '<tool_call>{"name": "now", "arguments": {}} trailing</tool_call> x', FinishReason.EOS, "trailing x", [("now", "{}")]),
    # Arguments that are no object.
    ("qwen3", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>', FinishReason.EOS,
     '<tool_call>{"name": "now", "arguments": [1]}</tool_call>', []),
    *(("gpt-oss", f"{TO_NOW}{value}<|call|>", FinishReason.EOS, f"{TO_NOW}{value}<|call|>", [])
      for value in ("[1]", '"s"', "12", "soon", "[1")),
    # Nested deeper than Python recurses.
    ("lfm2", f"<|tool_call_start|>[now(a={DEEP})]<|tool_call_end|>", FinishReason.EOS,
     f"<|tool_call_start|>[now(a={DEEP})]<|tool_call_end|>", []),
    ("gpt-oss", f'{TO_NOW}{{"a": {DEEP}}}<|call|>', FinishReason.EOS, None, [("now", f'{{"a": {DEEP}}}')]),
    ("gemma4", "<|tool_call>call:weather{city:}<tool_call|>", FinishReason.EOS, "<|tool_call>call:weather{city:}<tool_call|>", []),
    ("lfm2", "<|tool_call_start|>[weather(x)]<|tool_call_end|>", FinishReason.EOS,
     "<|tool_call_start|>[weather(x)]<|tool_call_end|>", []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "reason", "content", "calls"), UNFINISHED)
def test_what_is_no_whole_call(
    name: str, text: str, reason: FinishReason, content: str | None, calls: list[tuple[str, str]]
) -> None:
    template = load(TEMPLATES[name], NO_SIGNS)
    found = read_everywhere(lambda: choice(template), text, reason)
    assert (found.content, found.calls) == (content, calls)


PATTERNS = [
    # open_pattern, close_pattern, the answer, what is read of it.
    (r"<a>.*<b>", r"</b>", 'x <a>1<b>{"name": "now"}</b> y<b>', ("", "x\ny<b>", [("now", {})])),
    (r"<a|<ab>", r"</a", 'x <ab>{"name": "now"}</a>', ("", 'x <ab>{"name": "now"}</a>', [])),
    (r"<a>(?!x)", r"</a>", 'x <a>x <a>{"name": "now"}</a>', ("", "x <a>x", [("now", {})])),
    (r"(?<=\n)<a>", r"</a>$", '<a> \n<a>{"name": "now"}</a>', ("", "<a>", [("now", {})])),
    (r"^<a>\s*\B", r"</a>", '<a>{"name": "now"}</a>b <a>', ("", "b <a>", [("now", {})])),
    (r"(?=\{)", r"(?<=\})(?=;)", 'x {"name": "now"}; y', ("", "x\n; y", [("now", {})])),
    (r"z*", r"</a>", '{"name": "now"}</a>', ("", "", [("now", {})])),
    (r"<call", r">", '<call{"name": "now", "arguments": {"city": "a>b"}}> x', ("", "x", [("now", {"city": "a>b"})])),
    (r"<a>" + "." * 1200, r"</a>", "<a>" + "b" * 30, ("", "<a>" + "b" * 30, [])),
]


@pytest.mark.parametrize(("opening", "closing", "text", "expected"), PATTERNS)
def test_any_pattern_reads_alike_wherever_it_is_cut(opening: str, closing: str, text: str, expected: Any) -> None:
    given = changed("qwen3", *CALLS, open_pattern=opening, close=None, close_pattern=closing)
    given["fields"]["content"] = {}
    template = load(given, NO_SIGNS)
    assert values(read_everywhere(lambda: choice(template), text)) == expected


@pytest.mark.parametrize(("close", "content"), [("eos", "Two videos<end>"), (["eos", "<end>"], "Two videos")])
def test_eos_is_the_end_of_the_answer_and_no_text(close: Any, content: str) -> None:
    template = load(changed("qwen3", "fields", "content", close_pattern=None, close=close), NO_SIGNS)
    assert values(read_everywhere(lambda: choice(template), "Two videos<end>")) == ("", content, [])


def test_groups_of_the_closing_reach_the_call() -> None:
    given = changed(
        "gemma4", *CALLS, open_pattern="<a>", close=None, close_pattern="</(?P<name>[a-z]+)>", content_args={}
    )
    template = load(given, NO_SIGNS)
    assert values(read_everywhere(lambda: choice(template), '<a>{"days": 1}</weather>x')) == (
        "", "x", [("weather", {"days": 1})]
    )  # fmt: skip


def test_the_id_that_a_transform_names_is_the_calls() -> None:
    given = changed("command-a", *CALLS, transform={"id": "{tool_call_id}", "type": "function", "function": {
        "name": "{tool_name}", "arguments": "{parameters}"}})  # fmt: skip
    calls = [{"tool_call_id": each, "tool_name": "now", "parameters": {}} for each in ("abc45678Z", 7, "0")]
    reading = choice(load(given, NO_SIGNS))
    read(reading, [f"<|START_ACTION|>{json.dumps(calls)}<|END_ACTION|>"])
    ids = [call.id for call in reading.message().tool_calls or []]
    assert ids[0] == "abc45678Z"
    assert all(each.startswith("call_") for each in ids[1:])
    assert len(ids) == 3


def test_lines_are_arguments_typed_by_the_schema() -> None:
    given = changed(
        "glm",
        *CALLS,
        content="kv-lines",
        content_args={"value_parser": {"name": "json", "args": {"allow_non_json": True}}},
    )
    template = load(given, NO_SIGNS)
    text = "<tool_call>weather\ncity: 3\ndays: 4\nmore: [1]\nother: a: b</tool_call>"
    found = values(read_everywhere(lambda: choice(template), text))
    assert found == ("", "", [("weather", {"city": "3", "days": 4, "more": [1], "other": "a: b"})])


def test_without_tools_a_call_is_text_and_thoughts_may_stay_in_it() -> None:
    text = '<think>Hm</think>\n\nI look.\n<tool_call>{"name": "now"}</tool_call>\nDone. '
    template = load(TEMPLATES["qwen3"], NO_SIGNS)
    found = read_everywhere(lambda: choice(template, schemas={}), text)
    assert (found.reasoning, found.content) == ("Hm", text[19:].strip())
    found = read_everywhere(lambda: choice(template, schemas={}, separates=False), text)
    assert (found.reasoning, found.content) == ("", text.strip())


def test_control_tokens_are_shown_on_request_and_text_without_a_field_is_kept_for_a_grammar() -> None:
    template = load(TEMPLATES["command-a"], ControlSigns(["<|x|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"]))
    text = f"{sign('<|START_RESPONSE|>')}a{sign('<|x|>')}b{sign('<|END_RESPONSE|>')}c"
    assert read_everywhere(lambda: choice(template), text).content == "ab"
    assert read_everywhere(lambda: choice(template, shows_tokens=True), text).content == "a<|x|>b"
    assert read_everywhere(lambda: choice(template, keeps_rest=True), '{"a": 1}').content == '{"a": 1}'
    assert read_everywhere(lambda: choice(template), "<|START_RESPONSE|>a").content == "", "letters are no mark"


SLOW = r"(?:x+x+)+y"
FAULTS = [
    ([], "response_template is no object"),
    (changed("qwen3", version=2), "its version is 2, not 1"),
    (changed("qwen3", more=1), "response_template has the unknown key `more`"),
    (changed("qwen3", start_anchor=None), "it has no `start_anchor`"),
    (changed("qwen3", start_anchor_pattern="x"), "response_template has both `start_anchor` and `start_anchor_pattern`"),
    (changed("qwen3", defaults={"content": "hi"}), "`defaults` has a value for `content`"),
    (changed("qwen3", fields={}), "`fields` is no object with fields"),
    (changed("qwen3", "fields", plan={"open": "x"}), "the field `plan` is none of"),
    (changed("qwen3", "fields", thinking={"open": "x"}), "several fields hold thoughts"),
    (changed("qwen3", *CALLS, open_pattern=None), "more than one field has no `open`"),
    (changed("qwen3", *CALLS, open_pattern="("), "`open_pattern` of the field `tool_calls` is no regular expression"),
    (changed("qwen3", *CALLS, open_pattern=SLOW), "`open_pattern` of the field `tool_calls` takes too long"),
    (changed("qwen3", *CALLS, open_pattern=r"(?:\s*\w+){1,8}<tc>"), "`open_pattern` of the field `tool_calls` takes too long"),
    (changed("qwen3", *CALLS, open_pattern=None, open=["a", ""]), "`open` of the field `tool_calls` is neither"),
    (changed("qwen3", *CALLS, begin="x"), "the field `tool_calls` has the unknown key `begin`"),
    (changed("qwen3", *CALLS, content="yaml"), "the field `tool_calls` has the unknown content 'yaml'"),
    (changed("qwen3", *CALLS, content_args={"lax": True}), "`content_args` of the field `tool_calls` has the unknown key `lax`"),
    (changed("qwen3", *CALLS, repeats="yes"), "`repeats` of the field `tool_calls` is neither true nor false"),
    (changed("qwen3", *CALLS, transform={"function": "call {content}"}), "mixes a placeholder with text"),
    (changed("qwen3", *CALLS, transform={"function": "{body}"}), "which nothing gives"),
    (changed("gemma4", *CALLS, transform=None), "names groups that no `transform` takes"),
    (changed("command-a", *CALLS, transform=None), "has `transform_each` and no `transform`"),
    (changed("gemma4", *CALLS, content_args={"string_delims": ["x"]}), "`string_delims` of the field `tool_calls` is no list"),
    (changed("glm", *CALLS, "content_args", tag_pattern="(?P<key>x)"), "has no groups `key` and `value`"),
    (changed("glm", *CALLS, "content_args", value_parser={"name": "yaml"}), "has the unknown value parser 'yaml'"),
    (changed("qwen3", "fields", "content", content="json"), "the field `content` is not plain text"),
    (changed("qwen3", "fields", "content", join="x"), "`join` of the field `content` is no text, or"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "fault"), FAULTS)
def test_a_template_that_would_be_read_otherwise_is_refused_in_one_line(given: Any, fault: str) -> None:
    with pytest.raises(UnreadableTemplate) as found:
        load(given, NO_SIGNS)
    assert fault in str(found.value)
    assert "\n" not in str(found.value)


def test_what_says_nothing_is_taken() -> None:
    neutral = changed("qwen3", version=1, defaults={"role": "assistant", "content": "", "tool_calls": []})
    neutral["fields"]["content"] |= {"content": "text", "optional": False, "transform": "{content}", "content_args": {}}
    assert load(neutral, NO_SIGNS).calls is not None


def test_a_slow_pattern_ends_the_search_of_one_answer(caplog: pytest.LogCaptureFixture) -> None:
    given = changed("qwen3", *CALLS, open_pattern=r"(?:(?:ab)+(?:ab)+)+!")
    given["fields"]["content"] = {}
    template = load(given, NO_SIGNS)
    with caplog.at_level(logging.WARNING):
        said = [values(read(choice(template), ["<think>Hm</think>", "ab" * 500, "? <think>"])) for _ in range(2)]
    assert said == [("Hm", "ab" * 500 + "? <think>", [])] * 2
    assert len(caplog.records) == 1
    assert "takes too long" in caplog.text


def test_searches_that_take_too_long_together_end_the_splitting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is under the limit of one search. The clock counts searches: two hundredths of a second for each."""
    given = changed("qwen3", *CALLS, open_pattern=r"<tc\d>")
    given["fields"]["content"] = {}
    template = load(given, NO_SIGNS)
    clock = itertools.count()
    monkeypatch.setattr("time.thread_time", lambda: next(clock) / 50)
    text = "<tc" * 20 + '<tc1>{"name": "now"}</tool_call>'
    assert values(read(choice(template), list(text * 3))) == ("", text * 3, [])
    monkeypatch.undo()
    assert len(values(read(choice(template), list(text * 3)))[2]) == 3


@pytest.mark.parametrize("name", FORMS_OF)
def test_a_grammar_writes_what_the_template_reads(name: str) -> None:
    """In the form of the family, and in one made of the template's marks alone."""
    template = load(TEMPLATES[name], NO_SIGNS)
    assert [form.name for form in FORMS if grammar_form(template, form) is form] == FORMS_OF[name]
    made = grammar_form(template, None)
    assert made is not None
    assert made.name == MADE
    functions = tuple(Function(name, "", schema, strict=True) for name, schema in SCHEMAS.items())
    calls = [("weather", {"city": "a b", "days": 3}), ("now", {})]
    for form in (*map(NAMED.__getitem__, FORMS_OF[name]), made):
        grammar = forced_calls(
            ToolUse(functions, functions, parallel=True), form, MarkIds(lambda _: None, lambda _: None)
        )
        text = str(written_calls(form, calls))
        assert takes(grammar, text), text
        assert not takes(grammar, text.replace("weather", "wether"))
        assert values(read(choice(template), [text])) == ("", "", calls)


def test_a_template_that_reads_two_calls_as_one_has_no_grammar() -> None:
    """Forms whose calls have no closing of their own, as Devstral's, or gpt-oss's with `<|call|>` alone."""
    devstral = changed(
        "gemma4", *CALLS, open_pattern=r"\[TOOL_CALLS\](?P<name>\w+)\[ARGS\]", close=None, content_args={}
    )
    devstral["fields"]["content"] = {"open": "<a>"}
    form = NAMED["mistral-v13"]
    assert grammar_form(load(devstral, NO_SIGNS), form) is None
    assert not reads_harmony(load(changed("gpt-oss", *CALLS, close="<|call|>"), NO_SIGNS))


def test_a_grammar_writes_ids_where_the_form_has_them() -> None:
    """Mistral Small 3.2's."""
    marks = {"open_pattern": r"\[TOOL_CALLS\](?P<name>\w+)\[CALL_ID\](?P<id>\w{9})\[ARGS\]", "close": None,
             "close_pattern": r"(?=\[TOOL_CALLS\])"}  # fmt: skip
    given = changed("gemma4", *CALLS, **marks, content_args={})
    given["fields"]["content"] = {}
    form = NAMED["mistral-v11"]
    assert grammar_form(load(given, NO_SIGNS), form) is form


def test_another_form_than_the_chat_templates_gets_a_grammar_of_its_own() -> None:
    template = load(changed("qwen3", *CALLS, open_pattern=None, open="<call>", close="</call>"), NO_SIGNS)
    form = grammar_form(template, NAMED["hermes"])
    assert form is not None
    assert (form.name, form.begin, form.end) == (MADE, "<call>", "</call>")


@pytest.mark.parametrize(
    "given",
    [
        changed(
            "qwen3",
            *CALLS,
            transform={"function": {"name": "{content.tool.name}", "arguments": "{content.tool.input}"}},
        ),
        changed("qwen3", *CALLS, open_pattern=r"(?=\{)"),
        changed("glm", *CALLS, open_pattern=r"(?:<a>|<b>)(?P<name>\w+)"),
        changed("qwen3", *CALLS, content="kv-lines"),
    ],
)
def test_marks_that_do_not_tell_a_form_get_no_grammar(given: dict[str, Any]) -> None:
    assert grammar_form(load(given, NO_SIGNS), None) is None
