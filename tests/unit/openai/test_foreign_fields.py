"""Fields that a request's type does not have: neutral values and echoes are taken, all else is refused by name."""

from __future__ import annotations

import json
import logging
import string
from collections.abc import Collection
from typing import Any

import msgspec
import pytest

from container.api import ignored_fields
from container.api.openai import foreign_fields
from container.api.openai.chat_request import Chat, ChatRequest, parse_chat
from container.api.openai.completion_request import CompletionRequest, parse_completion
from container.api.openai.field_rules import RULES, Ignored, NotDone
from container.api.openai.messages import AssistantMessage, TextPart, ToolCall, UserMessage
from container.api.openai.reasoning_effort import SPELLINGS
from container.api.openai.sampling import StreamOptions
from container.api.openai.tools import FunctionFields, NamedFunction, Tool
from container.api.spelling import distance, near
from container.errors import InvalidRequest
from container.settings import Settings
from tools.fields import OBJECTS

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SETTINGS = Settings()


def chat(settings: Settings = SETTINGS, **fields: Any) -> Chat:
    return parse_chat({"messages": [USER], **fields}, settings, 260)


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    return caught.value


def rules(name: str, kind: type[Any]) -> list[tuple[str, Any]]:
    """The rules of a struct, by kind, without names that its type has."""
    own = {field for each in (ChatRequest, CompletionRequest) for field in each.__struct_fields__}
    return [(field, rule) for field, rule in RULES[name].items() if isinstance(rule, kind) and field not in own]


@pytest.mark.parametrize("field", [field for field, _ in rules("ChatRequest", NotDone | Ignored)])
def test_null_is_taken(field: str) -> None:
    assert chat(**{field: None}).request == chat().request


@pytest.mark.parametrize(("field", "rule"), rules("ChatRequest", NotDone))
def test_neutral_values_are_taken_and_others_refused_by_name(field: str, rule: NotDone) -> None:
    for value in rule.neutral:
        assert chat(**{field: value}).request == chat().request
    error = refused(**{field: {"some": "value"}})
    assert (error.param, error.message) == (field, f"`{field}` is not supported: {rule.why}")


@pytest.mark.parametrize(("field", "value"), [("use_beam_search", 0), ("mirostat", False), ("best_of", True)])
def test_a_number_is_no_flag(field: str, value: Any) -> None:
    assert refused(**{field: value}).param == field


@pytest.mark.parametrize(
    ("field", "neutral", "other"),
    [("suffix", "", "x"), ("max_completion_tokens", None, 5), ("top_logprobs", 0, 2), ("tools", [], [{}])],
)
def test_completions_have_rules_of_their_own(field: str, neutral: Any, other: Any) -> None:
    body = {"prompt": "a"}
    assert parse_completion(body | {field: neutral}, SETTINGS, 260) == parse_completion(body, SETTINGS, 260)
    with pytest.raises(InvalidRequest) as caught:
        parse_completion(body | {field: other}, SETTINGS, 260)
    assert caught.value.param == field


ECHOES: list[dict[str, Any]] = [
    {"verbosity": "low", "store": True, "prediction": {"type": "content", "content": "x"}, "stream_interval": 5},
    {"metadata": {"a": {"b": 1}, "c": 5}, "user": {"id": 1}, "session_id": "s", "request_id": "r", "usage": {}},
    {"provider": {"order": ["x"]}, "models": ["a", "b"], "litellm_session_id": "x", "cache_control": {"type": "e"}},
    {"stream": True, "stream_options": {"include_usage": None, "chunk_size": 5}},
]
MESSAGES: list[dict[str, Any]] = [
    USER | {"id": "1", "timestamp": 5, "images": [], "cache_control": {}, "tool_calls": [], "reasoning_content": "x"},
    {
        "role": "assistant",
        "content": "a",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "parsed": {"a": 1},
        "function_call": None,
        "provider_specific_fields": {"a": None},
        "thinking_blocks": [{"type": "thinking"}],
        "reasoning_details": [{"type": "reasoning.text"}],
        "reasoning_content": "hm",
        "prefix": False,
        "model": "m",
        "tool_call_id": "x",
        "finish_reason": "stop",
        "created_at": "2026",
        "usage": {"total_tokens": 1},
        "additional_kwargs": {},
        "response_metadata": {},
        "index": 0,
        "logprobs": None,
        "tool_calls": None,
    },
    {"role": "assistant", "content": [{"type": "text", "text": "a", "cache_control": {"type": "e"}, "id": "p"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL | {"index": 0, "extra_content": {"google": {}}}]},
    {
        "role": "assistant",
        "tool_calls": [CALL | {"function": {"name": "f", "parsed_arguments": {}}}],
    },
    {"role": "tool", "content": "4", "tool_call_id": "c", "name": "f", "is_error": False, "artifact": None},
    {"role": "function", "content": "4", "name": "f", "tool_call_id": "c"},
    {"role": "system", "content": "s", "cache_control": {"type": "ephemeral"}, "id": 5},
]
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "f", "defer_loading": True}, "cache_control": {}, "strict": None},
    {"type": "function", "function": {"name": "f", "title": "F", "cache_control": {}}, "defer_loading": False},
]


@pytest.mark.parametrize("fields", ECHOES, ids=str)
def test_what_changes_no_answer_is_taken(fields: dict[str, Any]) -> None:
    same = {name: value for name, value in fields.items() if name == "stream"}
    own = {name: None for name in fields if name in ChatRequest.__struct_fields__ and name != "stream"}
    assert msgspec.structs.replace(chat(**fields).request, **own) == chat(**same).request


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_what_clients_replay_is_taken_and_leaves_the_prompt_alone(message: dict[str, Any]) -> None:
    (found,) = chat(messages=[message]).messages
    assert found.keys() <= {"role", "content", "tool_calls", "name", "tool_call_id", "reasoning_content"}
    assert found["role"] == message["role"]
    assert ("reasoning_content" in found) == (message["role"] == "assistant" and "reasoning_content" in message)


@pytest.mark.parametrize("tool", TOOLS, ids=str)
def test_what_clients_add_to_tools_is_taken(tool: dict[str, Any]) -> None:
    bare = {"type": "function", "function": {"name": "f"}}
    assert chat(tools=[tool]).tools == chat(tools=[bare]).tools
    chosen = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
    assert chat(tools=[tool], tool_choice=chosen).tools == chat(tools=[bare], tool_choice="f").tools


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": [USER | {"images": ["x"]}]}, "messages[0].images", "reads text only"),
        ({"messages": [USER, {"role": "assistant", "content": "a", "prefix": True}]}, "messages[1].prefix", "continue"),
        ({"messages": [USER | {"function_call": {"name": "f"}}]}, "messages[0].function_call", "tool_calls"),
        ({"messages": [{"role": "assistant", "content": "a", "audio": {"id": "x"}}]}, "messages[0].audio", "audio"),
        ({"tools": [{"name": "f", "function": {"name": "f"}}]}, "tools[0].name", "inside `function`"),
        ({"reasoning": {"effort": "low", "summary": "detailed"}}, "reasoning.summary", "not supported"),
        ({"options": {"num_ctx": 5}}, "options", "in the body itself"),
        ({"max_new_tokens": 5}, "max_new_tokens", "send `max_tokens`"),
        ({"lora_path": "x"}, "lora_path", "send the adapter's name as `model`"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(fields: dict[str, Any], param: str, words: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert words in error.message


def test_each_ignored_field_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignored_fields, "_logged", set())
    caplog.set_level(logging.INFO, "container.api.ignored_fields")
    for _ in range(3):
        chat(store=True, user=None, messages=[USER | {"id": 1}, USER | {"id": 2}])
    assert [record.getMessage() for record in caplog.records] == [
        "`store` is ignored: nothing is stored",
        "`messages[].id` is ignored: it belongs to the client's own records",
    ]


def test_a_client_cannot_flood_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignored_fields, "_logged", set())
    caplog.set_level(logging.INFO, "container.api.ignored_fields")
    lenient = Settings(unknown_fields="ignore")
    for i in range(1000):
        chat(lenient, **{f"{'z' * 40}{i}\n": 1})
    assert len(caplog.records) == 500


# Names that a slip is tried on, with the place of the object that holds them.
PLACES: dict[type[Any], Any] = {
    ChatRequest: lambda slip: {slip: 1},
    StreamOptions: lambda slip: {"stream": True, "stream_options": {slip: True}},
    UserMessage: lambda slip: {"messages": [USER | {slip: "x"}]},
    AssistantMessage: lambda slip: {"messages": [{"role": "assistant", "content": "a", slip: "x"}]},
    TextPart: lambda slip: {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", slip: 1}]}]},
    ToolCall: lambda slip: {"messages": [{"role": "assistant", "tool_calls": [CALL | {slip: 1}]}]},
    Tool: lambda slip: {"tools": [{"function": {"name": "f"}, slip: 1}]},
    FunctionFields: lambda slip: {"tools": [{"function": {"name": "f", slip: 1}}]},
}


def slips(name: str) -> list[str]:
    """One of each kind: a letter missing, added, replaced, and two swapped; the place depends on the name."""
    at = sum(map(ord, name)) % len(name)
    letter = next(each for each in string.ascii_lowercase if each not in name)
    found = [name[:at] + name[at + 1 :], name[:at] + letter + name[at:], name[:at] + letter + name[at + 1 :]]
    swap = next((i for i in range(at, at + len(name)) if name[i % len(name)] != name[(i + 1) % len(name)]), at)
    if 0 < (swap := swap % len(name)) < len(name) - 1:
        found.append(name[:swap] + name[swap + 1] + name[swap] + name[swap + 2 :])
    return found


def known_names(kind: type[Any]) -> set[str]:
    own = {field.encode_name for field in msgspec.structs.fields(kind)}
    return own | RULES.get(kind.__name__, {}).keys() | {"role", "type"}


CASES = [
    (kind, name, slip)
    for kind in PLACES
    for name in sorted(field.encode_name for field in msgspec.structs.fields(kind))
    for slip in slips(name)
    if len(name) > 1 and slip not in known_names(kind)
]


def test_there_are_many_slips() -> None:
    assert len(CASES) > 150
    assert {kind for kind, _, _ in CASES} == PLACES.keys()


@pytest.mark.parametrize(("kind", "name", "slip"), CASES)
def test_a_misspelt_name_is_refused_with_the_right_one(kind: type[Any], name: str, slip: str) -> None:
    """Also where unknown names are taken."""
    for settings in (SETTINGS, Settings(unknown_fields="ignore")):
        with pytest.raises(InvalidRequest) as caught:
            chat(settings, **PLACES[kind](slip))
        asked = caught.value.message.partition(f"unknown field `{slip}`. Did you mean ")[2]
        assert f"`{name}`" in asked, caught.value.message
        assert str(caught.value.param).endswith(slip)


@pytest.mark.parametrize(
    ("slip", "name"),
    [
        *(("maxTokens", "max_tokens"), ("max-tokens", "max_tokens"), ("MAX_TOKENS", "max_tokens")),
        *(("temprature", "temperature"), ("temperture", "temperature"), ("top-p", "top_p"), ("streem", "stream")),
        *(
            ("frequancy_penlty", "frequency_penalty"),
            ("respons_formt", "response_format"),
            ("enable_thinkin", "enable_"),
        ),
        *(("stop_token_id", "stop_token_ids"), ("max_complete_tokens", "max_completion_tokens"), ("seeds", "seed")),
    ],
)
def test_other_styles_and_two_slips_are_found(slip: str, name: str) -> None:
    assert f"`{name}" in refused(**{slip: 1}).message.partition("Did you mean")[2]


@pytest.mark.parametrize("name", ["nonsense", "x", "", "ü", "a" * 5000, "foo.bar", "new\nline", "flux_capacitor_level"])
def test_a_name_that_is_near_to_none_is_refused_unless_the_operator_allows_it(name: str) -> None:
    error = refused(**{name: 1})
    assert error.message == f"unknown field `{name[:80]}`"
    assert chat(Settings(unknown_fields="ignore"), **{name: 1}).request == chat().request


def test_no_field_is_ignored_that_may_be_a_misspelt_one() -> None:
    """A slip of a field that is done must not be the name of one that is ignored."""
    taken = {("ChatRequest", "model", "models")}  # any model is answered
    for name in RULES:
        kinds = [kind for kind in (*PLACES, CompletionRequest) if kind.__name__ == name]
        done = {field.encode_name for kind in kinds for field in msgspec.structs.fields(kind)} - {"id", "name"}
        for field, rule in RULES[name].items():
            if isinstance(rule, Ignored) and field not in done:
                close = {(name, each, field) for each in done if distance(each, field) <= 1}
                assert close <= taken | {("CompletionRequest", "model", "models")}, close


def test_every_rule_belongs_to_a_type_that_reads_requests() -> None:
    schemas = json.dumps(msgspec.json.schema_components([ChatRequest, CompletionRequest])[1])
    assert {name for name in RULES if f'"{name}"' not in schemas} <= {"Reasoning", "Thinking"}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("", "", 0), ("a", "", 1), ("abc", "acb", 1), ("abc", "abd", 1), ("abc", "xabc", 1), ("ca", "abc", 3)],
)
def test_distance_counts_slips(one: str, other: str, expected: int) -> None:
    assert distance(one, other) == distance(other, one) == expected


def test_the_nearest_names_come_first() -> None:
    assert near("top_l", ["top_p", "stop", "top_k"]) == ["top_k", "top_p"]
    assert near("x" * 10_000, ["x"]) == []


REASONING: list[tuple[dict[str, Any], str | None, bool | None]] = [
    ({"reasoning": {}}, None, None),
    ({"reasoning": {"effort": "low"}}, "low", None),
    ({"reasoning": {"effort": "high", "enabled": True, "exclude": False}}, "high", True),
    ({"reasoning": {"enabled": False}}, "none", False),
    ({"reasoning": {"summary": "auto"}}, None, None),
    ({"thinking": {"type": "disabled"}}, "none", False),
    ({"thinking": {"type": "enabled"}}, None, True),
    ({"thinking": {"type": "adaptive"}}, None, None),
    ({"thinking": True}, None, True),
    ({"enable_thinking": False}, "none", False),
    ({"enable_thinking": None, "think": None, "thinking": None, "reasoning": None}, None, None),
    ({"think": "medium"}, "medium", None),
    ({"think": False, "enable_thinking": False, "reasoning_effort": "none"}, "none", False),
    ({"reasoning": {"effort": "low"}, "reasoning_effort": "low"}, "low", None),
]


@pytest.mark.parametrize(("fields", "effort", "on"), REASONING, ids=lambda value: str(value)[:60])
def test_reasoning_has_many_spellings_and_one_meaning(fields: Any, effort: str | None, on: bool | None) -> None:
    found = chat(**fields).request
    assert found.reasoning_effort == effort
    assert found.chat_template_kwargs == (None if on is None else {"enable_thinking": on, "thinking": on})


def test_the_requests_own_template_variables_win() -> None:
    found = chat(enable_thinking=True, chat_template_kwargs={"thinking": False, "a": 1}).request
    assert found.chat_template_kwargs == {"enable_thinking": True, "thinking": False, "a": 1}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "reasoning.effort"),
        ({"reasoning": {"effort": "low"}, "think": "high"}, "think"),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}, "thinking.type"),
        ({"enable_thinking": True, "reasoning_effort": "none"}, "enable_thinking"),
        ({"thinking": True, "think": False}, "think"),
        ({"reasoning": {"effort": "lots"}}, "reasoning.effort"),
        ({"reasoning": {"efort": "low"}}, "reasoning.efort"),
        ({"thinking": {"type": "on"}}, "thinking.type"),
        ({"thinking": "on"}, "thinking"),
        ({"reasoning": "low"}, "reasoning"),
        ({"enable_thinking": "yes"}, "enable_thinking"),
    ],
)
def test_reasoning_that_contradicts_itself_is_refused(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


def test_what_the_request_has_no_field_for_is_refused_and_else_becomes_it() -> None:
    from container.api.openai.reasoning_effort import with_reasoning_effort

    body = {"reasoning": {"max_tokens": 9, "exclude": True}}
    names = {"thinking_token_budget", "include_reasoning"}
    assert with_reasoning_effort(body, names) == {"thinking_token_budget": 9, "include_reasoning": False}
    with pytest.raises(InvalidRequest, match=r"`reasoning.max_tokens` is not supported"):
        with_reasoning_effort(body, ())
    assert set(SPELLINGS) <= RULES["ChatRequest"].keys()


def test_top_logprobs_of_zero_stands_alone() -> None:
    assert chat(top_logprobs=0).request.num_logprobs is None
    assert refused(top_logprobs=1).param == "top_logprobs"


def test_unknown_fields_are_taken_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name is compared with all known ones, once: 100,000 of them fit into a body."""
    compared: list[str] = []

    def counting(name: str, known: Collection[str]) -> list[str]:
        compared.append(name)
        return near(name, known)

    monkeypatch.setattr(foreign_fields, "near", counting)
    settings = Settings(unknown_fields="ignore")
    chat(settings, messages=[USER | {"zzqq": 1}] * 1000)
    assert compared == ["zzqq"]
    chat(settings, **{f"zzqq{i}": 1 for i in range(100)})
    with pytest.raises(InvalidRequest, match="more than 100 unknown fields"):
        chat(settings, **{f"zzqq{i}": 1 for i in range(100_000)})
    assert len(compared) == 1 + 100 + 101


STRUCTS: list[type[msgspec.Struct]] = [
    *(each for _, structs in OBJECTS for each in structs.values()),
    NamedFunction,
]


def test_each_type_with_rules_is_listed() -> None:
    assert {each.__name__ for each in STRUCTS} == RULES.keys()


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_a_field_that_is_done_has_no_rule(struct: type[msgspec.Struct]) -> None:
    own = {field.encode_name for field in msgspec.structs.fields(struct)} | {struct.__struct_config__.tag_field}
    assert own.isdisjoint(RULES[struct.__name__])


def test_a_chats_fields_are_known_to_completions() -> None:
    """Clients of both routes send neutral values of either."""
    known = {field.encode_name for field in msgspec.structs.fields(CompletionRequest)} | RULES[
        "CompletionRequest"
    ].keys()
    assert {field.encode_name for field in msgspec.structs.fields(ChatRequest)} <= known


@pytest.mark.parametrize(
    ("fields", "param", "meant"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schma": {}}}}, "json_schema.schma", "schema"),
        ({"response_format": {"type": "json_object", "schmea": {}}}, "schmea", "schema"),
        ({"response_format": {"type": "regex", "vaule": "a"}}, "vaule", "value"),
        ({"structured_outputs": {"chioce": ["a"]}}, "chioce", "choice"),
        ({"tool_choice": {"type": "function", "functoin": {}}}, "functoin", "function"),
        ({"tool_choice": {"type": "function", "function": {"nmae": "f"}}}, "function.nmae", "name"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mdoe": "auto"}}}, "allowed_tools.mdoe", "mode"),
        ({"messages": [{"role": "assistant", "content": [{"type": "text", "txet": "a"}]}]}, "content[0].txet", "text"),
        ({"thinking": {"budget_token": 5}}, "budget_token", "budget_tokens"),
    ],
)
def test_a_nested_slip_is_found_in_each_union(fields: dict[str, Any], param: str, meant: str) -> None:
    error = refused(**fields)
    assert (error.param or "").endswith(param)
    assert error.message.endswith(f"Did you mean `{meant}`?")
