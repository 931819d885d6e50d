"""Questions that share a text, as the engine sees them: order, groups, time, clients that leave, the key, the log."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from handler.seam.protocol import ErrorCode, Failed, FinishReason, GenerateRequest, Rejected
from tests.contract.seam.test_request_log import line_of
from tests.contract.seam.web import CHAT, WebServer
from tests.fakes.engine import FakeEngine, output

NEVER = threading.Event()
QUESTIONS = [
    {"type": "choice", "instructions": f"{i}?", "choices": [{"value": "a"}, {"value": "b"}]} for i in range(40)
]
DECISION: dict[str, Any] = {"input": "hi", "questions": QUESTIONS}
SYSTEM_ONE: dict[str, Any] = {
    "state": "hi",
    "questions": {q["instructions"]: {"type": "choice", "criteria": {"a": None, "b": None}} for q in QUESTIONS},
}
DOORS = {"/v1/decisions": DECISION, "/v1/systemone": SYSTEM_ONE}


def labelled(request: GenerateRequest) -> Any:
    """The first label, as an engine chooses it."""
    return output(request, list(request.sampling.allowed_token_ids[:1]), FinishReason.LENGTH)


@pytest.mark.parametrize("path", DOORS)
def test_the_first_question_runs_alone_and_the_rest_in_groups(web: WebServer, engine: FakeEngine, path: str) -> None:
    gates = [threading.Event(), threading.Event()]
    answered = []

    def play(request: GenerateRequest) -> Any:
        number = len(engine.requests)
        yield gates[0] if number == 1 else gates[1]
        answered.append(request.request_id)
        yield labelled(request)

    engine.script = play
    opened = web.open(path, DOORS[path])
    web.wait(lambda: len(engine.requests) == 1)
    assert web.places_taken() == 16, "no more than a group of one request is in flight"
    gates[0].set()
    web.wait(lambda: len(engine.requests) == 17)
    assert len(answered) == 1
    gates[1].set()
    assert opened.response.status == 200
    answers = json.loads(opened.response.read())["answers"]
    assert (len(answers), len(engine.requests)) == (40, 40)
    settings = {(each.sampling.max_tokens, each.sampling.temperature) for each in engine.requests}
    assert settings == {(1, 0.0)}


def test_a_question_of_many_passes_takes_a_place_for_each_that_runs(web: WebServer, engine: FakeEngine) -> None:
    """255 options are pairs of letters; one of two tokens is weighed in the passes of its tree."""
    gate = threading.Event()

    def play(request: GenerateRequest) -> Any:
        if len(engine.requests) > 1:
            yield gate
        yield labelled(request)

    engine.script = play
    question = {"type": "choice", "instructions": "?", "choices": [{"value": str(i)} for i in range(255)]}
    opened = web.open("/v1/decisions", {"input": "hi", "questions": [question]})
    web.wait(lambda: len(engine.requests) == 17)
    assert web.places_taken() == 16
    gate.set()
    assert opened.response.status == 200


@pytest.mark.parametrize("path", DOORS)
def test_leaving_aborts_what_runs_and_submits_no_more(web: WebServer, engine: FakeEngine, path: str) -> None:
    engine.script = lambda request: [labelled(request)] if len(engine.requests) == 1 else [NEVER]
    opened = web.open(path, DOORS[path])
    web.wait(lambda: len(engine.requests) == 17)
    opened.close()
    web.wait(lambda: len(engine.aborts) == 16)
    assert len(engine.requests) == 17


@pytest.mark.parametrize("path", DOORS)
def test_no_answer_lacks_a_question(web: WebServer, engine: FakeEngine, path: str) -> None:
    def play(request: GenerateRequest) -> Any:
        if len(engine.requests) == 20:
            return [Failed(request.request_id, ErrorCode.DEADLINE, "the time was used up")]
        return [labelled(request)]

    engine.script = play
    answer = web.post(path, DOORS[path])
    assert answer.status == 504, answer.body
    error = answer.json.get("error") or answer.json["detail"]
    assert "time was used up" in error["message"]


def test_errors_of_the_engine_have_the_dialects_body(web: WebServer, engine: FakeEngine) -> None:
    engine.script = lambda request: [Rejected(request.request_id, ErrorCode.OVERLOADED, "full")]
    refused = web.post("/v1/systemone", SYSTEM_ONE)
    assert (refused.status, refused.json) == (429, {"detail": {"error_type": "rate_limit_error", "message": "full"}})
    assert refused.headers["Retry-After"] == "1"
    refused = web.post("/v1/decisions", DECISION)
    assert (refused.status, refused.json["error"]["type"]) == (429, "rate_limit_error")


def test_the_key_is_asked_for(guarded: WebServer) -> None:
    assert guarded.post("/v1/decisions", {}).json["error"]["type"] == "authentication_error"
    refused = guarded.post("/v1/systemone", {})
    assert (refused.status, refused.json["detail"]["error_type"]) == (401, "authentication_error")
    assert guarded.post("/v1/systemone", {}, Authorization="Bearer Secret").status == 422
    assert guarded.post("/v1/decisions", {}, Authorization="Bearer Secret").status == 400


def test_one_line_of_the_log_for_all_questions(web: WebServer, engine: FakeEngine) -> None:
    engine.script = lambda request: [labelled(request)]
    body = DECISION | {"questions": QUESTIONS[:3]}
    answer = web.post("/v1/decisions", body)
    line = line_of(web, answer.headers["X-Request-Id"])
    usage = answer.json["usage"]
    assert (line["outcome"], line["num_sequences"], line["stream"]) == ("ok", 3, False)
    assert (line["prompt_tokens"], line["output_tokens"]) == (usage["input_tokens"], usage["output_tokens"])
    assert answer.headers["x-prompt-tokens"] == str(usage["input_tokens"])
    assert web.post("/v1/chat/completions", CHAT).status == 200, "chats go on as before"
