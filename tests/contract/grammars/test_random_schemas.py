"""Answers and forced calls after random schemas, from the bundled chat model at temperature 1: they parse and fit.

`make fuzz` asks for 200 of each; `make test` for a few.
"""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema_rs
import pytest

from tests.support.random_schemas import random_object
from tests.support.server import Server

pytestmark = [pytest.mark.bundled, pytest.mark.timeout(3600)]

CASES = int(os.environ.get("GRAMMAR_CASES", "6"))
AT_ONCE = 8
MAX_TOKENS = 800
MESSAGES = [{"role": "user", "content": "Give me an example."}]


def events(server: Server, route: str, body: dict[str, Any]) -> list[Any]:
    """Streamed, because a whole answer has 55 s and a busy machine may need more for eight at once."""
    answer = server.request("POST", route, body | {"stream": True}, timeout=600)
    assert answer.status == 200, answer.body
    lines = [line.removeprefix("data: ") for line in answer.body.decode().split("\n\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def chat(server: Server, seed: int, **fields: Any) -> tuple[list[dict[str, Any]], str]:
    body = {"messages": MESSAGES, "temperature": 1, "seed": seed, "max_tokens": MAX_TOKENS} | fields
    choices = [event["choices"][0] for event in events(server, "/v1/chat/completions", body)]
    return [choice["delta"] for choice in choices], choices[-1]["finish_reason"]


def json_answer(server: Server, schema: dict[str, Any], seed: int) -> tuple[str, str]:
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    deltas, reason = chat(server, seed, response_format=response_format)
    return "".join(delta.get("content") or "" for delta in deltas), reason


def forced_call(server: Server, schema: dict[str, Any], seed: int) -> tuple[str, str]:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    deltas, reason = chat(server, seed, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["name"] for call in calls if "name" in call] == ["f"]
    return "".join(call["arguments"] for call in calls), reason


def generated(server: Server, schema: dict[str, Any], seed: int) -> tuple[str, str]:
    parameters = {"grammar": {"type": "json", "value": schema}, "do_sample": True, "seed": seed, "details": True}
    body = {"inputs": "An example: ", "parameters": parameters | {"max_new_tokens": MAX_TOKENS}}
    last = events(server, "/generate_stream", body)[-1]
    return last["generated_text"], last["details"]["finish_reason"]


@pytest.mark.parametrize("ask", [json_answer, forced_call, generated])
def test_it_parses_and_fits(chat_server: Server, ask: Any) -> None:
    def one(seed: int) -> list[Any]:
        schema = random_object(random.Random(seed))
        text, reason = ask(chat_server, schema, seed)
        assert reason != "length", text
        return [(seed, text, str(error)) for error in jsonschema_rs.validator_for(schema).iter_errors(json.loads(text))]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert [error for found in pool.map(one, range(CASES)) for error in found] == []
