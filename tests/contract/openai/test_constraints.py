"""vLLM's and SGLang's constraints on both routes: what the engine is told, whole and streamed, beside tools."""

from __future__ import annotations

from typing import Any

import pytest

from handler.seam.protocol import GrammarKind
from tests.contract.openai.scripted import USER, ScriptedServer
from tests.contract.openai.test_sampling import BODIES, refused

REGEX = (GrammarKind.REGEX, "x+")
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SAYS: list[tuple[dict[str, Any], tuple[GrammarKind, str]]] = [
    ({"structured_outputs": {"regex": "x+"}}, REGEX),
    ({"guided_regex": "x+", "guided_decoding_backend": "xgrammar"}, REGEX),
    ({"regex": "x+"}, REGEX),
    ({"structured_outputs": {"choice": ["a", "x"]}}, (GrammarKind.LARK, 'start: "a" | "x"')),
    ({"guided_json": "{}"}, (GrammarKind.JSON_SCHEMA, "{}")),
    ({"response_format": {"type": "json_object"}}, (GrammarKind.JSON_SCHEMA, '{"type":"object"}')),
]


def grammars(server: ScriptedServer) -> list[tuple[GrammarKind, str]]:
    """Kind and source of each request's grammar."""
    found = (request.sampling.grammar for request in server.engine.requests)
    return [(grammar.kind, grammar.source) for grammar in found if grammar is not None]


@pytest.mark.parametrize("path", [*BODIES, "/invocations"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "grammar"), SAYS)
def test_the_engine_is_told_the_grammar(
    qwen: ScriptedServer, path: str, stream: bool, fields: dict[str, Any], grammar: tuple[GrammarKind, str]
) -> None:
    body = BODIES.get(path, {"messages": [USER]})
    qwen.engine.says("x")
    answer = qwen.request("POST", path, body | fields | {"n": 2, "stream": stream})
    assert answer.status == 200, answer.body
    assert grammars(qwen) == [grammar, grammar]


def test_each_prompt_of_a_list_has_it(qwen: ScriptedServer) -> None:
    qwen.engine.says("x")
    answer = qwen.request("POST", "/v1/completions", {"prompt": ["a", "b"], "guided_regex": "x+"})
    assert [choice["text"] for choice in answer.json["choices"]] == ["x", "x"]
    assert grammars(qwen) == [REGEX, REGEX]


@pytest.mark.parametrize("path", BODIES)
def test_two_constraints_are_refused(qwen: ScriptedServer, path: str) -> None:
    words = refused(qwen, path, guided_regex="x", response_format={"type": "json_object"})
    assert words.startswith("`guided_regex` and `response_format` exclude each other")
    assert refused(qwen, path, structured_outputs={"regex": "x", "structural_tag": "t"}).startswith(
        "`structured_outputs.structural_tag` must be absent: structural tags are not supported"
    )


def test_a_constraint_leaves_no_room_for_thoughts(thinker: ScriptedServer) -> None:
    """As with `response_format`: the thought that the template could begin is closed before the answer."""
    thinker.engine.says("x")
    message = thinker.ok(guided_choice=["x", "y"])["choices"][0]["message"]
    assert message["content"] == "x"
    assert "reasoning_content" not in message


def test_beside_tools_a_constraint_is_an_alternative(qwen: ScriptedServer) -> None:
    qwen.engine.says("{}")
    assert qwen.ok(tools=[TOOL], guided_json={"type": "object"})["choices"][0]["message"]["content"] == "{}"
    grammar = qwen.engine.requests[0].sampling.grammar
    assert grammar.kind is GrammarKind.LARK
    assert "answer |" in grammar.source
    qwen.ok(tools=[TOOL], tool_choice="none", guided_choice=["{}"])
    for field, value in (("guided_regex", "x"), ("ebnf", 'root ::= "x"'), ("guided_choice", ["x"])):
        qwen.engine.says("x")
        assert qwen.ok(tools=[TOOL], **{field: value})["choices"][0]["message"]["content"] == "x"
        assert "answer |" in qwen.engine.requests[0].sampling.grammar.source
