"""Our prompts are transformers' prompts: same text, same ids, same refusals."""

from __future__ import annotations

from typing import Any

import pytest

from container.text.chat_template import TemplateError
from tests.unit.text.text_models import FAMILIES, Model

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city, e.g. “Zürich” <b>now</b> & later",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "enum": [1, 2]}},
            "required": ["city"],
        },
    },
}
CALL = {
    "type": "function",
    "id": "call00001",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}},
}
USER = {"role": "user", "content": "What's up?"}
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "Not much."}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "user": [USER],
    "system and user": [SYSTEM, USER],
    "turns": [USER, ANSWER, {"role": "user", "content": "And now?"}],
    "system and turns": [SYSTEM, USER, ANSWER, {"role": "user", "content": "And now?"}],
    "assistant last": [USER, ANSWER],
    "assistant last, spaces": [USER, {"role": "assistant", "content": "  So I said: \n"}],
    "assistant first": [ANSWER, USER],
    "two users": [USER, USER],
    "late system": [USER, ANSWER, SYSTEM, USER],
    "unicode": [{"role": "user", "content": "naïve 日本語 😀👩‍👩‍👧 \u202eRTL\u202c עברית \u0000 \ufffd"}],
    "white space": [{"role": "user", "content": " \t\n two\n\nlines  \n"}],
    "empty": [{"role": "user", "content": ""}],
    "jinja in content": [{"role": "user", "content": "{{ bos_token }}{% raise %} {# no #}"}],
    "quotes": [{"role": "user", "content": '"quoted" \'single\' \\ back\\n <tag> & {"a": 1}'}],
    "ends like a token": [{"role": "user", "content": "is 1 <"}, {"role": "assistant", "content": "<|"}],
    "None values": [{"role": "user", "content": "x", "name": None, "tool_calls": None}],
    "think": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}, USER],
    "reasoning": [USER, {"role": "assistant", "content": "yes", "reasoning_content": "hm"}],
    "reasoning, other name": [USER, {"role": "assistant", "content": "yes", "thinking": "hm"}],
    "tool calls": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": '{"sky": "blue"}'},
        {"role": "assistant", "content": "Blue."},
        USER,
    ],
    "two tool calls": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}],
    "no content": [{"role": "user"}],
    "no role": [{"content": "x"}],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "no generation prompt": {"add_generation_prompt": False},
    "continue": {"continue_final_message": True, "add_generation_prompt": False},
    "tools": {"tools": [WEATHER]},
    "no tools": {"tools": []},
    "kwargs": {"template_kwargs": {"enable_thinking": False, "date_string": "1 Jan 2030", "bos_token": "B"}},
}


def theirs(model: Model, messages: list[dict[str, Any]], *, tokenize: bool, **options: Any) -> Any:
    """What transformers renders, or the exception's type where it refuses."""
    options = {"add_generation_prompt": True, **options}
    kwargs = options.pop("template_kwargs", {})
    try:
        out = model.reference.apply_chat_template(messages, tokenize=tokenize, **options, **kwargs)
    except Exception as exc:
        return type(exc)
    return out["input_ids"] if tokenize else out


def ours(model: Model, messages: list[dict[str, Any]], **options: Any) -> Any:
    try:
        return model.template.render(messages, **options)
    except TemplateError as exc:
        return exc


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_rendering_equals_transformers(model, name, variant):
    options = VARIANTS[variant]
    checked = model(name)
    for title, messages in CONVERSATIONS.items():
        expected = theirs(checked, messages, tokenize=False, **options)
        rendered = ours(checked, messages, **options)
        if isinstance(expected, type):
            assert isinstance(rendered, TemplateError), (title, expected, rendered)
            continue
        assert not isinstance(rendered, TemplateError), (title, rendered)
        assert rendered.text == expected, title
        ids = theirs(checked, messages, tokenize=True, **options)
        assert rendered.encode(checked.tokenizer) == ids, title


def test_every_family_renders_and_some_refuse(model):
    """The comparison above is not one of refusals, and does cover them."""
    outcomes = {
        name: [
            isinstance(ours(model(name), messages, tools=tools), TemplateError)
            for messages in CONVERSATIONS.values()
            for tools in (None, [WEATHER])
        ]
        for name in FAMILIES
    }
    rendered = {name: refused.count(False) for name, refused in outcomes.items()}
    assert min(rendered.values()) >= 15, rendered
    assert sum(map(sum, outcomes.values())) > 20


@pytest.mark.bundled
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bundled_model_too(bundled, variant):
    for title, messages in CONVERSATIONS.items():
        expected = theirs(bundled, messages, tokenize=True, **VARIANTS[variant])
        rendered = ours(bundled, messages, **VARIANTS[variant])
        if isinstance(expected, type):
            assert isinstance(rendered, TemplateError), title
        else:
            assert rendered.encode(bundled.tokenizer) == expected, title


def test_the_template_s_own_words_reach_the_caller(model):
    with pytest.raises(TemplateError, match=r"^System role not supported$"):
        model("gemma-2").template.render([SYSTEM, USER])


def test_no_messages_is_an_error(model):
    with pytest.raises(TemplateError, match="at least one message"):
        model("smollm2").template.render([])


def test_reserved_template_arguments_are_refused(model):
    for name in ("messages", "tools", "documents", "add_generation_prompt", "range"):
        with pytest.raises(TemplateError, match=name):
            model("smollm2").template.render([USER], template_kwargs={name: []})


def test_the_conversation_is_left_as_it_was(model):
    messages = [USER, {"role": "assistant", "content": "<|im_end|>", "name": None, "reasoning": "r"}]
    before = repr(messages)
    model("qwen3").template.render(messages, continue_final_message=True, tools=[WEATHER])
    assert repr(messages) == before


def test_a_deeply_nested_argument_is_an_error(model):
    nested: Any = "x"
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(TemplateError, match="nested too deeply"):
        model("qwen3").template.render([USER], tools=[{"function": nested}])
    # Taking the list apart from outside: its own destructor would recurse as deep.
    while isinstance(nested, list):
        nested = nested[0]


TEXT = [{"type": "text", "text": " one "}, {"type": "text", "text": "two"}]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_content_parts_go_to_a_template_that_takes_them(model, role):
    gemma = model("gemma-3")
    before = [] if role != "assistant" else [USER]
    after = [USER] if role == "system" else []
    messages = [*before, {"role": role, "content": TEXT}, *after]
    assert ours(gemma, messages).text == theirs(gemma, messages, tokenize=False)
    tail = [*messages, ANSWER] if role != "assistant" else messages
    options = {"continue_final_message": True, "add_generation_prompt": False}
    assert ours(gemma, tail, **options).text == theirs(gemma, tail, tokenize=False, **options)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"gemma-3"}))
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_content_parts_become_a_string_for_the_others(model, name, role):
    checked = model(name)
    context = {"tool": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}], "assistant": [USER]}
    message = {"role": role, "content": TEXT, "tool_call_id": "call00001", "name": "get_weather"}
    messages = [*context.get(role, []), message, *([USER] if role == "system" else [])]
    flat = [{**each, "content": " one two"} if each is message else each for each in messages]
    expected = theirs(checked, flat, tokenize=False)
    rendered = ours(checked, messages)
    if isinstance(expected, type):
        assert isinstance(rendered, TemplateError)
    else:
        assert rendered.text == expected


LISTS_ONLY = (
    "{% for m in messages %}{{ m.role }}: {% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
)


def test_a_string_becomes_a_part_where_only_parts_are_shown(inline):
    shown = inline(LISTS_ONLY).template
    assert shown.render([USER, ANSWER]).text == "user: What's up?\nassistant: Not much.\n"
    open_end = shown.render([USER, ANSWER], continue_final_message=True)
    assert open_end.text == "user: What's up?\nassistant: Not much."


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, 7, None])
def test_a_part_that_is_not_text_needs_a_template_that_takes_it(model, part):
    with pytest.raises(TemplateError, match="text content only"):
        model("smollm2").template.render([{"role": "user", "content": [TEXT[0], part]}])
    if isinstance(part, dict):
        assert "one" in model("gemma-3").template.render([{"role": "user", "content": [TEXT[0], part]}]).text \
            or part == {"type": "text"}  # fmt: skip
