"""An answer whose time runs out keeps what was generated; 504 stays where nothing was."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from handler.seam.protocol import ErrorCode, Failed, GenerateRequest
from tests.contract.seam.web import CHAT, GENERATES, PROMPT, STREAMS, TEXT, WebServer, events
from tests.fakes.engine import FakeEngine, output

DETAILS = {"inputs": "hi", "parameters": {"details": True, "top_n_tokens": 1}}


def runs_out(engine: FakeEngine, *texts: str) -> None:
    """The engine says the next of `texts` to each request and then that its time is used up."""
    left = list(texts)

    def play(request: GenerateRequest) -> Any:
        text = left.pop(0) if len(left) > 1 else left[0]
        said = [output(request, engine.token_ids(text))] if text else []
        return [*said, Failed(request.request_id, ErrorCode.DEADLINE, "the time was used up")]

    engine.script = play


@pytest.mark.parametrize("path", sorted(GENERATES))
def test_a_whole_answer_has_what_there_is(web: WebServer, engine: FakeEngine, path: str) -> None:
    runs_out(engine, "so far")
    answer = web.post(path, GENERATES[path])
    assert (answer.status, answer.headers["x-timed-out"]) == (200, "true"), answer.body
    if "choices" in answer.json:
        (choice,) = answer.json["choices"]
        assert choice.get("text", choice.get("message", {}).get("content")) == "so far"
        assert choice["finish_reason"] == "length"
    else:
        assert "so far" in str(answer.json)


def test_tgis_details_say_length(web: WebServer, engine: FakeEngine) -> None:
    runs_out(engine, "ab")
    details = web.post("/generate", DETAILS).json["details"]
    assert (details["finish_reason"], details["generated_tokens"], len(details["tokens"])) == ("length", 2, 2)


def test_vertex_too(web: WebServer, engine: FakeEngine) -> None:
    runs_out(engine, "one", "")
    answer = web.post("/vertex", {"instances": [TEXT, TEXT]})
    assert (answer.status, answer.headers["x-timed-out"]) == (200, "true")
    assert sorted(answer.json["predictions"]) == ["", "one"]


@pytest.mark.parametrize("path", sorted(STREAMS))
def test_a_stream_ends_as_at_its_length(web: WebServer, engine: FakeEngine, path: str) -> None:
    runs_out(engine, "ab")
    body = DETAILS | {"stream": True} if "inputs" in STREAMS[path] else STREAMS[path]
    found = events(web.post(path, body).body)
    if path.startswith("/v1"):
        assert found.pop() == "[DONE]"
        assert json.loads(found[-1])["choices"][0]["finish_reason"] == "length"
        return
    last = json.loads(found[-1])
    assert last["generated_text"] is not None
    assert last["details"]["finish_reason"] == "length"
    assert last["details"]["generated_tokens"] == 2
    assert (last["index"], last["token"]["text"], last["token"]["special"]) == (3, "", True)


def test_text_held_back_for_a_stop_string_is_part_of_it(web: WebServer, engine: FakeEngine) -> None:
    runs_out(engine, "a ST")
    answer = web.post("/v1/completions", PROMPT | {"stop": ["STOP"]})
    assert answer.json["choices"][0]["text"] == "a ST"


@pytest.mark.parametrize("stream", [True, False])
def test_a_choice_without_a_token_is_empty(web: WebServer, engine: FakeEngine, stream: bool) -> None:
    runs_out(engine, "one", "")
    answer = web.post("/v1/chat/completions", CHAT | {"n": 2, "temperature": 1, "stream": stream})
    assert answer.status == 200
    if stream:
        chunks = [json.loads(each)["choices"][0] for each in events(answer.body)[:-1]]
        ends = {chunk["index"]: chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]}
        assert ends == {0: "length", 1: "length"}
        return
    choices = answer.json["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["length", "length"]
    assert sorted(choice["message"]["content"] for choice in choices) == ["", "one"]


@pytest.mark.parametrize("fields", [{}, {"n": 2, "temperature": 1}])
def test_nothing_generated_is_a_504(web: WebServer, engine: FakeEngine, fields: dict[str, Any]) -> None:
    runs_out(engine, "")
    for stream in (True, False):
        answer = web.post("/v1/chat/completions", CHAT | fields | {"stream": stream})
        assert (answer.status, answer.json["error"]["code"]) == (504, "deadline_exceeded")


SCORED = {"prompt": [[1, 2], [3, 4], [5, 6]], "max_tokens": 1}


@pytest.mark.parametrize("fields", [{"echo": True, "logprobs": 1}, {"prompt_logprobs": 1}])
def test_a_prompt_that_was_not_scored_is_a_504(web: WebServer, engine: FakeEngine, fields: dict[str, Any]) -> None:
    """A tool would take the sum of no log-probabilities for certainty."""
    runs_out(engine, "a", "b", "")
    answer = web.post("/v1/completions", SCORED | fields)
    assert (answer.status, answer.json["error"]["code"]) == (504, "deadline_exceeded")
    assert answer.json["error"]["message"].endswith("before all its prompts were scored")
    runs_out(engine, "a")
    assert web.post("/v1/completions", SCORED | fields).status == 200
    runs_out(engine, "a", "b", "")
    streamed = events(web.post("/v1/completions", SCORED | {"echo": True, "logprobs": 1, "stream": True}).body)
    assert json.loads(streamed[-1])["error"]["code"] == "deadline_exceeded"


def test_choices_of_one_prompt_share_its_scores(web: WebServer, engine: FakeEngine) -> None:
    runs_out(engine, "", "one")
    answer = web.post("/v1/chat/completions", CHAT | {"n": 2, "temperature": 1, "prompt_logprobs": 0})
    assert answer.status == 200
    prompts = {len(request.prompt_token_ids) for request in engine.requests[-2:]}
    assert {len(answer.json["prompt_logprobs"])} == prompts


def test_an_engine_that_falls_silent_loses_nothing(guarded: WebServer) -> None:
    guarded.engine.reset()
    never = threading.Event()
    guarded.engine.script = lambda request: [output(request, guarded.engine.token_ids("ab")), never]
    answer = guarded.post("/generate", TEXT, Authorization="Bearer Secret")
    assert (answer.status, answer.json) == (200, {"generated_text": "ab"})
    guarded.wait(lambda: guarded.engine.aborts == [guarded.engine.requests[0].request_id])


def test_a_finished_answer_has_no_such_header(web: WebServer, engine: FakeEngine) -> None:
    engine.script = engine.says("hello")
    assert "x-timed-out" not in web.post("/generate", TEXT).headers
