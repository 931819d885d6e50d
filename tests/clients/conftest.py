"""Two servers for clients: the bundled model (`chat_server`), and an agent whose words are known (`agent`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from handler.seam.protocol import GenerateRequest
from tests.contract.openai.scripted import ScriptedServer, serving
from tests.support.server import Server

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
FINAL = "It rains in Paris."


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    """A model that thinks, asks the tool `weather`, then `clock` where there is one, and then says `FINAL`, through
    `final_answer` where there is one."""
    with serving(tmp_path_factory.mktemp("agent"), "qwen3") as server:
        server.engine.script = lambda request: _next_step(server, request)
        server.engine.bytes_per_step = 4
        yield server


def _next_step(server: ScriptedServer, request: GenerateRequest) -> str:
    prompt = server.engine.text(request.prompt_token_ids)
    if "rain in Paris" not in prompt:
        return "<think>\nHm.\n</think>\n\n" + call("weather", city="Paris")
    if '"clock"' in prompt and "noon in Paris" not in prompt:
        return "<think>\nAnd the time.\n</think>\n\n" + call("clock", city="Paris")
    return call("final_answer", answer=FINAL) if '"final_answer"' in prompt else FINAL


def call(name: str, **arguments: Any) -> str:
    """A call as the model writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.fixture(scope="session")
def greedy_answer(chat_server: Server) -> str:
    """What the bundled model answers to the question of tests/clients/programs/task.py."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is deep learning?"},
    ]
    answer = chat_server.request("POST", "/v1/chat/completions", {"messages": messages, **GREEDY})
    assert answer.status == 200, answer.body
    return str(answer.json["choices"][0]["message"]["content"])
