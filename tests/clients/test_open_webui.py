"""Bodies as Open WebUI 0.12.4 sends them, built as its routers for OpenAI and for tasks build them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import FINAL
from tests.contract.openai.scripted import ScriptedServer

BODIES = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "open_webui").glob("*.json")}
HEADERS = {"HTTP_Referer": "https://openwebui.com/", "X_Title": "Open WebUI", "Authorization": "Bearer -"}
CALLS = {"tools-stream"}
ANSWERS = {"tool-result-stream", "tool-result-reasoning"}


def sent(server: ScriptedServer, name: str) -> list[dict[str, Any]]:
    """The answer, or the chunks of a stream."""
    body = BODIES[name]
    answer = server.request("POST", "/v1/chat/completions", body, **HEADERS)
    assert answer.status == 200, answer.body
    if not body["stream"]:
        return [answer.json]
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    *frames, done = answer.body.decode().removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_answered(agent: ScriptedServer, name: str) -> None:
    chunks = sent(agent, name)
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert choices[-1]["finish_reason"] == ("length" if name == "emoji" else "tool_calls" if name in CALLS else "stop")
    assert ("usage" in chunks[-1]) == (not BODIES[name]["stream"] or "stream_options" in BODIES[name])
    deltas = [choice["delta" if BODIES[name]["stream"] else "message"] for choice in choices]
    if name in CALLS:
        calls = [part["function"] for delta in deltas for part in delta.get("tool_calls", ())]
        assert calls[0]["name"] == "weather"
        assert json.loads("".join(part.get("arguments", "") for part in calls)) == {"city": "Paris"}
    if name in ANSWERS:
        assert "".join(delta.get("content") or "" for delta in deltas) == FINAL
    else:
        thought = "".join(delta.get("reasoning_content") or "" for delta in deltas)
        # A continued answer has begun: marks that are plain text are no marks in it.
        assert thought.strip() == ("" if name in {"emoji", "continue"} else "Hm."), thought


def test_the_bodies_differ_in_what_open_webui_can_change() -> None:
    """Tasks and chats, whole and streamed, tools, replayed calls and thoughts, both ways to continue, parameters."""
    fields = {field for body in BODIES.values() for field in body}
    assert fields >= {
        "stream_options",
        "tools",
        "continue_final_message",
        "add_generation_prompt",
        "logit_bias",
        "stop",
    }
    assert len(BODIES) >= 12


def test_an_answer_is_continued(agent: ScriptedServer) -> None:
    sent(agent, "continue")
    assert agent.engine.prompt.endswith("It rains"), agent.engine.prompt[-80:]


def test_the_list_of_models(agent: ScriptedServer) -> None:
    answer = agent.request("GET", "/v1/models", **HEADERS)
    assert [sorted(model) for model in answer.json["data"]]
    assert all(model["object"] == "model" for model in answer.json["data"])
