"""What Claude Code 2.1.332 changes inside a conversation of /v1/messages: tools, effort, instructions of one turn."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.openai.scripted import ScriptedServer
from tests.contract.openai.test_messages import SCHEMA, USER, ok

BASH = {"name": "Bash", "input_schema": SCHEMA}
FETCH = {"name": "WebFetch", "input_schema": SCHEMA, "defer_loading": True}
PLACEHOLDER = {"name": "DeferredToolPlaceholder", "input_schema": {}, "defer_loading": True}
SEARCH = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
TOOLS = [PLACEHOLDER, FETCH, BASH]
ASSISTANT = {"role": "assistant", "content": [{"type": "tool_use", "id": "call00001", "name": "Bash", "input": {}}]}


def result(*names: str) -> dict[str, Any]:
    """What a search of the client's own has found."""
    parts = [{"type": "tool_reference", "tool_name": name} for name in names]
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call00001", "content": parts}]}


def system(*blocks: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "system", "content": list(blocks), **fields}


def change(kind: str, name: str) -> dict[str, Any]:
    return {"type": f"tool_{kind}", "tool": {"type": "tool_reference", "name": name}}


def definition(**tool: Any) -> dict[str, Any]:
    return {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool}}


def offered(server: ScriptedServer) -> list[str]:
    """The tools of the last prompt, in their order."""
    return re.findall(r'"function": \{"name": "(\w+)"', server.engine.prompt)


CHANGES: list[tuple[str, list[Any], dict[str, Any], list[str]]] = [
    ("nothing loads them", [USER], {}, ["Bash"]),
    ("the client has found one", [USER, ASSISTANT, result("WebFetch")], {}, ["WebFetch", "Bash"]),
    ("found, and gone since", [USER, ASSISTANT, result("mcp__gone__tool")], {}, ["Bash"]),
    ("a system turn adds one", [USER, system(change("addition", "WebFetch"))], {}, ["WebFetch", "Bash"]),
    ("a system turn removes one", [USER, system(change("removal", "Bash"))], {}, []),
    (
        "removed and added again",
        [USER, system(change("removal", "Bash")), USER, system(change("addition", "Bash"))],
        {},
        ["Bash"],
    ),
    ("defined where it is added", [USER, system(definition(name="new", input_schema={}))], {}, ["Bash", "new"]),
    ("a definition of Anthropic's", [USER, system(definition(type="bash_20250124", name="bash"))], {}, ["Bash"]),
    ("a search of Anthropic's", [USER], {"tools": [SEARCH, *TOOLS]}, ["DeferredToolPlaceholder", "WebFetch", "Bash"]),
    (
        "defined, removed and named again",
        [
            USER,
            system(definition(name="new", input_schema={})),
            USER,
            system(change("removal", "new")),
            USER,
            system(change("addition", "new")),
        ],
        {},
        ["Bash", "new"],
    ),
    ("forced", [USER], {"tool_choice": {"type": "tool", "name": "WebFetch"}}, ["WebFetch", "Bash"]),
]  # fmt: skip


@pytest.mark.parametrize(("turns", "fields", "names"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_which_tools_are_offered(
    qwen: ScriptedServer, turns: list[Any], fields: dict[str, Any], names: list[str]
) -> None:
    qwen.engine.says("ok")
    ok(qwen, *turns, **{"tools": TOOLS} | fields)
    assert offered(qwen) == names


def test_a_definition_replaces_the_tool_of_its_name(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    ok(qwen, USER, system(definition(name="Bash", description="Anew.", input_schema=SCHEMA)), tools=TOOLS)
    assert offered(qwen) == ["Bash"]
    assert "Anew." in qwen.engine.prompt


@pytest.mark.parametrize(
    ("turns", "fields"),
    [
        ([system(change("removal", "Bash")), USER, system(change("addition", "Bash"))], {}),
        ([ASSISTANT, result("Bash")], {}),
        ([], {"tool_choice": {"type": "tool", "name": "Bash"}}),
    ],
    ids=["added again", "found by a search", "forced"],
)
def test_a_tool_that_is_named_again_has_its_newest_definition(
    qwen: ScriptedServer, turns: list[Any], fields: dict[str, Any]
) -> None:
    qwen.engine.says("ok")
    anew = system(definition(name="Bash", description="Anew.", input_schema=SCHEMA))
    ok(qwen, USER, anew, USER, *turns, tools=TOOLS, **fields)
    assert offered(qwen) == ["Bash"]
    assert "Anew." in qwen.engine.prompt


@pytest.mark.parametrize("name", ["Bash", "WebFetch"])
def test_a_removed_tool_cannot_be_forced(qwen: ScriptedServer, name: str) -> None:
    turns = [USER, system(change("addition", name), change("removal", name))]
    body = {"model": "m", "max_tokens": 9, "messages": turns, "tools": TOOLS}
    answer = qwen.request("POST", "/v1/messages", body | {"tool_choice": {"type": "tool", "name": name}})
    assert answer.status == 400, answer.body
    assert "`tool_choice.name` must be one of" in answer.json["error"]["message"]


def test_the_model_reads_what_a_search_has_found(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    ok(qwen, USER, ASSISTANT, result("WebFetch", "Monitor"), tools=TOOLS)
    found = qwen.engine.prompt.split("<tool_response>")[1].split("</tool_response>")[0]
    assert "WebFetch" in found
    assert "Monitor" in found


def test_a_turn_that_only_changes_something_says_nothing(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    ok(qwen, USER)
    plain = qwen.engine.prompt
    for silent in (system(), system(change("removal", "Bash")), system(output_config={"effort": "high"})):
        ok(qwen, USER, silent)
        assert qwen.engine.prompt == plain, silent
    ok(qwen, system(change("removal", "Bash")))
    assert qwen.engine.prompt.endswith("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")


def test_the_last_turn_says_how_much_to_think(server_for: Callable[[str], ScriptedServer]) -> None:
    server = server_for("harmony")
    server.engine.says("ok")
    top = {"output_config": {"effort": "high"}}
    for turns, effort in (
        ([USER], "high"),
        ([USER, system(output_config={"effort": "low"})], "low"),
        ([USER, system(output_config={"effort": "low"}), USER, system(output_config={"effort": "medium"})], "medium"),
        ([USER, system(output_config={})], "high"),
    ):
        ok(server, *turns, **top)
        assert f"Reasoning: {effort}" in server.engine.prompt


def test_instructions_of_one_turn_end_with_it(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    once = {"role": "system", "content": "Read in parallel.", "clear_at": "next_user_message"}
    ok(qwen, USER, ASSISTANT, result(), once, tools=TOOLS)
    assert "Read in parallel." in qwen.engine.prompt
    ok(qwen, USER, ASSISTANT, result(), once, ASSISTANT, result(), tools=TOOLS)
    assert "Read in parallel." not in qwen.engine.prompt
    ok(qwen, USER, ASSISTANT, result(), once | {"clear_at": "never"}, ASSISTANT, result(), tools=TOOLS)
    assert "Read in parallel." in qwen.engine.prompt


def test_tools_and_effort_stay_changed_where_the_text_is_cleared(server_for: Callable[[str], ScriptedServer]) -> None:
    """anthropic 2.14.0 says of `clear_at` how long the text is shown, and of nothing else."""
    server = server_for("harmony")
    server.engine.says("ok")
    effort = {"role": "system", "output_config": {"effort": "low"}, "clear_at": "next_user_message"}
    ok(server, USER, effort, USER, output_config={"effort": "high"})
    assert "Reasoning: low" in server.engine.prompt
    qwen = server_for("qwen2.5")
    qwen.engine.says("ok")
    ok(qwen, USER, system(change("removal", "Bash"), clear_at="next_user_message"), USER, tools=TOOLS)
    assert offered(qwen) == []


TEMPLATES = ["mistral-nemo", "llama-3.3", "smollm2", "harmony", "qwen3", "gemma-3", "zephyr"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_system_turn_between_questions_in_each_template(
    server_for: Callable[[str], ScriptedServer], template: str
) -> None:
    """Templates that take such a turn only in front may demand that user and assistant take turns."""
    server = server_for(template)
    server.engine.says("ok")
    one, two = ({"role": "user", "content": text} for text in ("One.", "Two."))
    ok(server, one, system({"type": "text", "text": "Be short."}), two, system="Be Claude.", tools=[BASH])
    chat = [{"role": "system", "content": "Be Claude."}, one, {"role": "system", "content": "Be short."}, two]
    prompt = server.engine.prompt
    server.ok(*chat, tools=[{"type": "function", "function": {"name": "Bash", "parameters": SCHEMA}}])
    assert server.engine.prompt == prompt
    for text in ("Be Claude.", "One.", "Be short.", "Two."):
        assert prompt.count(text) == 1, text


REFUSED: list[tuple[Any, str]] = [
    (change("addition", "nope"), "messages[1].content[0].tool.name"),
    ({"type": "tool_addition", "tool": {"type": "mcp_tool_reference"}}, "messages[1].content[0].tool.type"),
    (definition(name="a b", input_schema={}), "messages[1].content[0].tool.definition.name"),
    ({"type": "tool_result", "tool_use_id": "c"}, "messages[1].content[0].type"),
]


@pytest.mark.parametrize(("block", "param"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_a_system_turn_cannot_say(qwen: ScriptedServer, block: Any, param: str) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [USER, system(block)], "tools": TOOLS}
    answer = qwen.request("POST", "/v1/messages", body)
    assert answer.status == 400
    assert f"`{param}`" in answer.json["error"]["message"]


def test_only_the_request_says_the_form_of_the_answer(qwen: ScriptedServer) -> None:
    wanted = {"format": {"type": "json_schema", "schema": SCHEMA}}
    body = {"model": "m", "max_tokens": 9, "messages": [USER, system(output_config=wanted)]}
    answer = qwen.request("POST", "/v1/messages", body)
    assert answer.status == 400
    assert "`messages[1].output_config.format`" in answer.json["error"]["message"]
