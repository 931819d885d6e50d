"""Each request leaves one line, whose fields tell what became of it and nothing of what was said."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from msgspec.structs import replace

from handler.seam.protocol import ErrorCode, Failed, FinishReason, Rejected, TokenLogprob
from tests.contract.seam.web import CHAT, GENERATES, STREAMS, TEXT, WebServer
from tests.fakes.engine import FakeEngine, output

SECRET = "correct horse battery staple"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECONDS = ("validate_s", "tokenise_s", "queue_s", "prefill_s", "decode_s", "first_token_s", "total_s")


def lines(server: WebServer) -> list[dict[str, Any]]:
    """Every line so far; each must be a JSON object of the one schema."""
    whole, _, _ = server.log.read_text().rpartition("\n")  # the last one may still be written
    found = [json.loads(line) for line in whole.split("\n") if line]
    for line in found:
        assert {"timestamp", "level", "target", "message", "process", "pid"} <= line.keys()
    return found


def line_of(server: WebServer, request_id: str | None) -> dict[str, Any]:
    """The one line of a request; it is written after the answer has been sent."""

    def of_request() -> list[dict[str, Any]]:
        every = [line for line in lines(server) if line["target"] == "container.requests"]
        return [line for line in every if request_id in {line["request_id"], line.get("client_request_id")}]

    server.wait(lambda: bool(of_request()))
    (found,) = of_request()
    return found


@pytest.mark.parametrize("path", sorted(GENERATES))
def test_a_whole_answer(web: WebServer, engine: FakeEngine, path: str) -> None:
    engine.script = engine.says("a", "bc", finish=FinishReason.LENGTH)
    answer = web.post(path, GENERATES[path], traceparent=TRACE)
    line = line_of(web, answer.headers["X-Request-Id"])
    assert (line["level"], line["process"], line["message"]) == ("INFO", "web", f"POST {path} 200 ok")
    assert (line["method"], line["route"], line["status"], line["outcome"]) == ("POST", path, 200, "ok")
    assert (line["model"], line["stream"], line["num_sequences"]) == ("fake/model", False, 1)
    assert (line["finish_reason"], line["output_tokens"], line["cached_tokens"]) == ("length", 3, 0)
    assert line["prompt_tokens"] == len(engine.requests[0].prompt_token_ids)
    assert (line["trace_id"], line["parent_id"]) == tuple(TRACE.split("-")[1:3])
    assert all(line[name] >= 0 for name in SECONDS)
    assert line["total_s"] >= line["first_token_s"] >= line["validate_s"]
    assert ("template_s" in line) == (GENERATES[path] is CHAT)
    assert engine.requests[0].request_id == f"{line['request_id']}-0"


@pytest.mark.parametrize("path", sorted(STREAMS))
def test_a_stream(web: WebServer, engine: FakeEngine, path: str) -> None:
    engine.script = engine.says("a", "bc", finish=FinishReason.EOS)
    answer = web.post(path, STREAMS[path])
    line = line_of(web, answer.headers["X-Request-Id"])
    assert (line["status"], line["outcome"], line["stream"], line["finish_reason"]) == (200, "ok", True, "eos")


def test_times_are_those_the_engine_told(web: WebServer, engine: FakeEngine) -> None:
    engine.script = lambda request: [
        replace(output(request, engine.token_ids("a")), queue_time_s=2.0, inference_time_s=0.5, num_cached_tokens=1),
        replace(output(request, [], FinishReason.EOS), queue_time_s=2.0, inference_time_s=4.5),
    ]
    line = line_of(web, web.post("/generate", TEXT).headers["X-Request-Id"])
    assert (line["queue_s"], line["prefill_s"], line["decode_s"], line["cached_tokens"]) == (2.0, 0.5, 4.0, 1)


def test_several_choices_are_one_line(web: WebServer, engine: FakeEngine) -> None:
    answer = web.post("/v1/chat/completions", CHAT | {"n": 3, "temperature": 1})
    line = line_of(web, answer.headers["X-Request-Id"])
    assert (line["num_sequences"], line["finish_reason"]) == (3, "eos,eos,eos")
    ids = {request.request_id for request in engine.requests}
    assert ids == {f"{line['request_id']}-{i}" for i in range(3)}


def test_a_client_that_goes_away(web: WebServer, engine: FakeEngine) -> None:
    never = threading.Event()
    engine.script = lambda request: [output(request, engine.token_ids("a")), never]
    for number, path in enumerate(("/generate_stream", "/generate")):
        with web.connect() as client:
            raw = json.dumps(TEXT).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: gone-{number}\r\nContent-Length: {len(raw)}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + raw)
            web.wait(lambda number=number: len(engine.requests) == number + 1)
        line = line_of(web, f"gone-{number}")
        assert (line["outcome"], line["level"], line["finish_reason"]) == ("dropped", "INFO", "none")


ENDS = {
    ErrorCode.OVERLOADED: (429, "overloaded", "WARNING"),
    ErrorCode.DEADLINE: (504, "timeout", "WARNING"),
    ErrorCode.ENGINE_DEAD: (503, "unhealthy", "WARNING"),
    ErrorCode.INVALID: (400, "validation", "INFO"),
    ErrorCode.INTERNAL: (500, "generation", "ERROR"),
}


@pytest.mark.parametrize("code", ENDS)
def test_an_error_of_the_engine(web: WebServer, engine: FakeEngine, code: ErrorCode) -> None:
    engine.script = lambda request: [Rejected(request.request_id, code, "no")]
    line = line_of(web, web.post("/v1/chat/completions", CHAT).headers["X-Request-Id"])
    assert (line["status"], line["outcome"], line["level"]) == ENDS[code]


def test_a_full_queue_of_anthropics_routes_is_no_fault(web: WebServer, engine: FakeEngine) -> None:
    engine.script = lambda request: [Rejected(request.request_id, ErrorCode.OVERLOADED, "no")]
    line = line_of(web, web.post("/v1/messages", CHAT | {"max_tokens": 5}).headers["X-Request-Id"])
    assert (line["status"], line["outcome"], line["level"]) == (529, "overloaded", "WARNING")


def test_an_error_in_a_stream(web: WebServer, engine: FakeEngine) -> None:
    engine.script = lambda request: [
        output(request, engine.token_ids("a")),
        Failed(request.request_id, ErrorCode.NUMERICS, "not a number"),
    ]
    line = line_of(web, web.post("/generate_stream", TEXT).headers["X-Request-Id"])
    assert (line["status"], line["outcome"], line["output_tokens"]) == (200, "generation", 1)


def test_a_fault_of_ours_in_a_stream(web: WebServer, engine: FakeEngine) -> None:
    web.num_provoked_faults += 1
    engine.script = lambda request: [
        output(request, engine.token_ids("a")),
        replace(output(request, engine.token_ids("bc"), FinishReason.LENGTH), logprobs=[TokenLogprob(-1.0)]),
    ]
    line = line_of(web, web.post("/generate_stream", TEXT).headers["X-Request-Id"])
    assert (line["status"], line["outcome"], line["level"]) == (200, "internal", "ERROR")


@pytest.mark.parametrize(
    ("path", "body", "status", "outcome"),
    [
        ("/v1/chat/completions", b"{", 400, "validation"),
        ("/generate", {"inputs": ""}, 422, "validation"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "x"}]}]}, 400, "validation"),
        ("/nowhere", {}, 404, "not_found"),
        ("/metrics", {}, 405, "method_not_allowed"),
    ],
)
def test_what_never_came_to_the_engine(web: WebServer, path: str, body: Any, status: int, outcome: str) -> None:
    line = line_of(web, web.post(path, body).headers["X-Request-Id"])
    assert (line["status"], line["outcome"]) == (status, outcome)
    assert line.get("route" if status < 404 or status > 405 else "path") == path
    assert "num_sequences" not in line


@pytest.mark.parametrize("given", ["xyz", "x" * 128, "~!@#$%^&*()"])
def test_the_callers_id_is_given_back_and_never_a_key(web: WebServer, engine: FakeEngine, given: str) -> None:
    for _ in range(2):
        assert web.post("/generate", TEXT, X_Request_Id=given).headers["X-Request-Id"] == given
    web.settle()
    ours = {line["request_id"] for line in lines(web) if line.get("client_request_id") == given}
    assert len(ours) == 2
    assert given not in str([request.request_id for request in engine.requests])


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "tab\there", "b\xe4d"])
def test_an_id_that_cannot_be_shown_is_replaced(web: WebServer, given: str) -> None:
    shown = web.post("/generate", TEXT, X_Request_Id=given).headers["X-Request-Id"]
    assert len(shown) == 32
    assert "client_request_id" not in line_of(web, shown)


def test_traceparent_is_passed_on_if_it_is_one(web: WebServer) -> None:
    assert web.post("/generate", TEXT, traceparent=TRACE).headers["traceparent"] == TRACE
    for wrong in ("", TRACE[:-1], TRACE.upper(), f"ff{TRACE[2:]}", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"{TRACE}x"):
        answer = web.post("/generate", TEXT, traceparent=wrong)
        assert "traceparent" not in answer.headers
        assert "trace_id" not in line_of(web, answer.headers["X-Request-Id"])


def test_every_answer_has_an_id(web: WebServer) -> None:
    for method, path in (("GET", "/ping"), ("GET", "/metrics"), ("GET", "/nowhere"), ("DELETE", "/generate")):
        assert len(web.request(method, path).headers["X-Request-Id"]) == 32


def test_no_text_of_anybody_is_in_the_log(web: WebServer, engine: FakeEngine) -> None:
    engine.script = engine.says(SECRET, finish=FinishReason.LENGTH)
    messages = [{"role": "user", "content": SECRET}]
    ids = [web.post("/v1/chat/completions", {"messages": messages}).headers["X-Request-Id"]]
    ids.append(web.post("/generate", {"inputs": SECRET, "parameters": {"stop": [SECRET]}}).headers["X-Request-Id"])
    ids.append(web.post("/generate_stream", {"inputs": SECRET}).headers["X-Request-Id"])
    engine.script = lambda request: [Failed(request.request_id, ErrorCode.INTERNAL, "generation failed")]
    ids.append(web.post("/v1/completions", {"prompt": SECRET}).headers["X-Request-Id"])
    ids.append(web.post("/generate", {"inputs": [SECRET]}).headers["X-Request-Id"])
    for each in ids:
        line_of(web, each)
    assert SECRET not in web.log.read_text()
    assert SECRET.split()[1] not in web.log.read_text()


def test_nobody_can_forge_a_line(web: WebServer) -> None:
    forged = '%0d%0a{"level": "ERROR", "message": "forged"}%0d%0a%1b[2J%e2%80%a8'
    answer = web.request("POST", f"/{forged.replace(' ', '%20')}", {})
    line = line_of(web, answer.headers["X-Request-Id"])
    assert "forged" in line["path"]
    assert not [each for each in lines(web) if each["message"] == "forged"]
    assert "\x1b" not in web.log.read_text()


def test_probes_leave_no_lines(web: WebServer) -> None:
    web.request("GET", "/ping")
    web.request("GET", "/metrics")
    last = web.post("/generate", TEXT).headers["X-Request-Id"]
    line_of(web, last)
    assert not [line for line in lines(web) if line.get("route") in {"/ping", "/metrics", "/health"}]
