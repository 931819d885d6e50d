"""Messages that a template would lose or refuse are said where it takes them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from container.api.openai import system_messages
from container.api.openai.conversation import conversation
from container.api.openai.past_calls import shown_in_full
from container.api.openai.system_messages import folded
from container.api.openai.template_traits import TemplateTraits
from container.api.openai.tools import Function, ToolUse
from container.text.template_sandbox import TemplateError
from tests.unit.openai.marked_answers import CHATML, template_of, tokenizer_with
from tests.unit.text.text_models import TEMPLATES

Message = dict[str, Any]

# Later system messages are dropped.
DROPS = """\
{%- if messages[0].role == 'system' %}S:{{ messages[0].content }};{% endif -%}
{%- for m in messages if m.role in ('user', 'assistant') %}{{ m.role[0] }}:{{ m.content }};{% endfor -%}
"""
# Later system messages are refused, in the first place too if there is another behind it.
REFUSES = """\
{%- for m in messages -%}
{%- if m.role == 'system' and not loop.first %}{{ raise_exception('only at the beginning') }}{% endif -%}
{{ m.role[0] | upper if m.role == 'system' else m.role[0] }}:{{ m.content }};
{%- endfor -%}
"""
# System messages in front are taken, all of them; others are refused.
FRONT = """\
{%- set state = namespace(begun=false) -%}
{%- for m in messages -%}
{%- if m.role == 'system' and state.begun %}{{ raise_exception('not here') }}{% endif -%}
{%- if m.role != 'system' %}{% set state.begun = true %}{% endif -%}
{{ 'S' if m.role == 'system' else m.role[0] }}:{{ m.content }};
{%- endfor -%}
"""
KNOWS_DEVELOPER = DROPS.replace("== 'system'", "in ('system', 'developer')")
NAMES_DEVELOPER = "{# for any developer #}" + DROPS
HARMONY = (TEMPLATES / "harmony.jinja").read_text()


def said(role: str, content: Any) -> Message:
    return {"role": role, "content": content}


def roles(*messages: Message) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in messages]


S, D, U, A = said("system", "s"), said("developer", "d"), said("user", "u"), said("assistant", "a")
BOTH = said("system", "s\n\nt")
T = said("system", "t")
PARTS = said("system", [{"type": "text", "text": "t"}])
CASES: list[tuple[str, list[Message], list[Message]]] = [
    (DROPS, [S, U], [S, U]),
    (DROPS, [S, T, U], [BOTH, U]),
    (DROPS, [S, PARTS, U], [BOTH, U]),
    (DROPS, [S, U, A, T, U], [BOTH, U, A, U]),
    (DROPS, [U, T], [T, U]),
    (DROPS, [U, A, T, U], [T, U, A, U]),
    (DROPS, [S, D, U], [said("system", "s\n\nd"), U]),
    (DROPS, [D, S, U], [said("system", "d\n\ns"), U]),
    (DROPS, [D, D, U, D], [said("system", "d\n\nd\n\nd"), U]),
    (DROPS, [S, said("system", ""), U], [S, U]),
    (REFUSES, [S, T, U, A, T, U], [said("system", "s\n\nt\n\nt"), U, A, U]),
    (REFUSES, [U, S], [S, U]),
    (FRONT, [S, T, U], [S, T, U]),
    (FRONT, [S, T, U, S], [said("system", "s\n\ns"), T, U]),
    (CHATML, [S, T, U, D], [S, T, U, said("system", "d")]),
    (CHATML, [U, S, U], [U, S, U]),
    (KNOWS_DEVELOPER, [D, U], [D, U]),
    (KNOWS_DEVELOPER, [D, S, U], [said("developer", "d\n\ns"), U]),
    (NAMES_DEVELOPER, [D, U], [said("system", "d"), U]),
    (HARMONY, [S, D, U], [said("system", "s\n\nd"), U]),
    (HARMONY, [D, U, D], [said("developer", "d\n\nd"), U]),
]


@pytest.mark.parametrize(("source", "messages", "expected"), CASES)
def test_system_messages(source: str, messages: list[Message], expected: list[Message]) -> None:
    tokenizer = tokenizer_with(())
    template = template_of(source, tokenizer)
    found, _ = conversation(messages, None, None, TemplateTraits(template, tokenizer))
    assert roles(*found) == roles(*expected)
    template.render(found)


@pytest.mark.parametrize("name", ["gemma-3", "mistral-nemo", "qwen2.5", "qwen3", "llama-3.3", "phi-3.5", "zephyr"])
def test_no_system_message_is_lost(name: str) -> None:
    """Templates as published, each with its own place for them."""
    tokenizer = tokenizer_with(())
    template = template_of((TEMPLATES / f"{name}.jinja").read_text(), tokenizer)
    traits = TemplateTraits(template, tokenizer)
    first, second, last = (said("system", f"marker-{i}") for i in range(3))
    for messages in ([first, second, U], [first, U, A, second, U], [first, second, U, last], [U, first]):
        found, _ = conversation(messages, None, None, traits)
        text = template.render(found).text
        for message in messages:
            assert message["content"] in text


def test_a_template_without_a_system_message_says_so() -> None:
    tokenizer = tokenizer_with(())
    template = template_of((TEMPLATES / "gemma-2.jinja").read_text(), tokenizer)
    found, _ = conversation([S, T, U], None, None, TemplateTraits(template, tokenizer))
    with pytest.raises(TemplateError, match="System role not supported"):
        template.render(found)


def test_it_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    system_messages._log_once.cache_clear()
    tokenizer = tokenizer_with(())
    traits = TemplateTraits(template_of(DROPS, tokenizer), tokenizer)
    with caplog.at_level(logging.WARNING):
        for messages in ([S, U], [S, T, U], [S, T, U], [U, S]):
            conversation(messages, None, None, traits)
    assert [record.message for record in caplog.records if "system messages" in record.message] == [
        "system messages that the chat template takes only in front are put there, as one; logged once"
    ]


# An answer has one call at most.
ONE_CALL = """\
{%- for m in messages -%}
{%- if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one at once') }}{% endif -%}
{{ m.role[0] }}:{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %};
{%- endfor -%}
{{ tools | tojson if tools }}
"""


def calling(*names: str, content: str = "") -> Message:
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in names]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(name: str, text: str) -> Message:
    return {"role": "tool", "tool_call_id": name, "content": text}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([U, calling("f"), result("f", "1"), U], "u:u;a:f;t:1;u:u;"),
        ([U, calling("f", "g", content="x"), result("g", "2"), result("f", "1"), U], "u:u;a:xf;t:1;a:g;t:2;u:u;"),
        ([U, calling("f", "g"), result("f", "1")], "u:u;a:f;t:1;a:g;"),
        ([U, calling("f", "g"), result("f", "1"), result("h", "3"), U], "u:u;a:f;t:1;a:g;t:3;u:u;"),
        ([U, calling("f", "f"), result("f", "1"), result("f", "2")], "u:u;a:f;t:1;a:f;t:2;"),
    ],
)
def test_several_calls_of_an_answer(messages: list[Message], expected: str) -> None:
    tokenizer = tokenizer_with(())
    template = template_of(ONE_CALL, tokenizer)
    found, _ = conversation(messages, None, None, TemplateTraits(template, tokenizer))
    assert template.render(found).text.strip() == expected


LOSES_RESULTS = """\
{%- for m in messages if m.role in ('system', 'user', 'assistant') -%}
{{ m.role[0] }}:{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %};
{%- endfor -%}
"""


@pytest.mark.parametrize("tools", ["", "{{ tools | tojson if tools }}"])
def test_a_result_that_the_template_loses_is_a_user_message(tools: str) -> None:
    tokenizer = tokenizer_with(())
    template = template_of(LOSES_RESULTS + tools, tokenizer)
    messages = [U, calling("f"), {**result("f", "rain"), "name": "f"}, U]
    found, _ = conversation(messages, None, None, TemplateTraits(template, tokenizer))
    assert template.render(found).text.strip() == "u:u;a:f;u:Result of f:\nrain;u:u;"


# Calls are shown, in one form, and results are dropped.
CALLS_ALONE = """\
{%- for m in messages if m.role != 'tool' -%}
{{ m.role[0] }}:{{ m.content }}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %};
{%- endfor -%}
"""
TAKES_TOOLS = "{{ tools | tojson if tools }}" + CALLS_ALONE
# Only beside tools are results dropped.
DROPS_BESIDE_TOOLS = TAKES_TOOLS.replace("if m.role != 'tool'", "if not tools or m.role != 'tool'")


def use() -> ToolUse:
    function = Function("f", "does f", {"type": "object", "properties": {}}, strict=False)
    return ToolUse((function,), (function,), parallel=True)


@pytest.mark.parametrize("source", [CALLS_ALONE, TAKES_TOOLS, DROPS_BESIDE_TOOLS])
@pytest.mark.parametrize("with_tools", [False, True])
def test_results_that_a_template_loses_become_user_messages(source: str, with_tools: bool) -> None:
    tokenizer = tokenizer_with(())
    template = template_of(source, tokenizer)
    messages = [U, calling("f", "g"), result("f", "warm"), result("g", "wet"), U]
    found, tools = conversation(messages, use() if with_tools else None, None, TemplateTraits(template, tokenizer))
    shown = template.render(found, tools=tools).text
    assert "warm" in shown
    assert shown.index('"g"') < shown.index("warm") < shown.index("wet")
    calls = [call["function"]["name"] for message in found for call in message.get("tool_calls", ())]
    assert calls == ["f", "g"]
    if source != DROPS_BESIDE_TOOLS or with_tools:
        assert {"role": "user", "content": "Result of f:\nwarm\nResult of g:\nwet"} in found


def test_calls_stay_together_where_the_template_takes_them() -> None:
    tokenizer = tokenizer_with(())
    template = template_of((TEMPLATES / "qwen3.jinja").read_text(), tokenizer)
    messages = [U, calling("f", "g"), result("f", "1"), result("g", "2")]
    found, _ = conversation(messages, None, None, TemplateTraits(template, tokenizer))
    assert [len(message.get("tool_calls", ())) for message in found] == [0, 2, 0, 0]


class Counted(dict[str, Any]):
    """A message that counts how often one of its kind is read."""

    num_reads = 0

    def __getitem__(self, key: str) -> Any:
        Counted.num_reads += 1
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        Counted.num_reads += 1
        return super().get(key, default)


MANY = 400
NAMES = [f"f{i}" for i in range(MANY)]


@pytest.mark.parametrize("source", [CHATML, DROPS, ONE_CALL])
@pytest.mark.parametrize(
    "messages",
    [
        [S] * MANY,
        [S, U] * MANY,
        [U, calling(*NAMES), *(result(name, "1") for name in reversed(NAMES))],
        [U, calling(*NAMES), *(result("another", "1") for _ in NAMES)],
        [U, calling(*NAMES), *({"role": "tool", "content": "1"} for _ in NAMES)],
    ],
)
def test_each_message_is_read_a_few_times(source: str, messages: list[Message]) -> None:
    """A body of 2 MB has 40,000 messages, and nothing else is answered meanwhile."""
    tokenizer = tokenizer_with(())
    traits = TemplateTraits(template_of(source, tokenizer), tokenizer)
    Counted.num_reads = 0
    counted: list[Message] = [Counted(message) for message in messages]
    found = shown_in_full(folded(counted, traits), traits)
    assert len(found) <= 2 * len(messages)
    assert Counted.num_reads <= 20 * len(messages)
