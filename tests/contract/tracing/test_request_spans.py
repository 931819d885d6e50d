"""What the span of a request says: its trace, its times, its tokens, its failure, and nothing of what was said."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from msgspec.structs import replace

from handler.seam.protocol import ErrorCode, Failed, FinishReason, Rejected
from tests.contract.seam.web import CHAT, GENERATES, STREAMS, TEXT
from tests.contract.tracing.traced import TracedServer
from tests.fakes.engine import FakeEngine, output

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
SECRET = "correct horse battery staple"
MESSAGES = {"messages": CHAT["messages"], "max_tokens": 9}
# The operation's name, and whether the answer has an id.
DIALECTS: dict[str, tuple[dict[str, Any], str, bool]] = {
    **{
        path: (body, "text_completion" if body is not CHAT else "chat", body is not TEXT)
        for path, body in GENERATES.items()
    },
    "/v1/responses": ({"input": "hi"}, "chat", True),
    "/v1/messages": (MESSAGES, "chat", True),
    "/generate_stream": (TEXT, "text_completion", False),
    "/vertex": ({"instances": [TEXT]}, "text_completion", False),
}
STREAMED = STREAMS | {
    "/v1/responses": {"input": "hi", "stream": True},
    "/v1/messages": MESSAGES | {"stream": True},
}


def moments(span: Any) -> list[str]:
    return [name for name, _, _ in span.events]


@pytest.mark.parametrize("path", sorted(DIALECTS))
def test_each_dialect_has_a_span_below_the_callers(web: TracedServer, engine: FakeEngine, path: str) -> None:
    engine.script = engine.says("a", "bc", finish=FinishReason.LENGTH)
    body, operation, has_id = DIALECTS[path]
    answer = web.post(path, body, traceparent=TRACEPARENT, tracestate="vendor=x")
    assert answer.status == 200
    span = web.span("gen_ai.request.id", answer.headers["X-Request-Id"])
    assert (span.name, span.is_server, span.error) == (f"POST {path}", True, False)
    assert (span.trace_id, span.parent_id, span.trace_state) == (TRACE_ID, PARENT_ID, "vendor=x")
    assert len(span.span_id) == 16
    assert span.resource["service.name"] == "tested"
    sampling, found = engine.requests[0].sampling, span.attributes
    wanted = {
        "http.request.method": "POST",
        "http.route": path,
        "http.response.status_code": 200,
        "url.path": path,
        "url.scheme": "http",
        "heir.outcome": "ok",
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "tgi-heir",
        "gen_ai.request.model": "fake/model",
        "gen_ai.response.model": "fake/model",
        "gen_ai.request.stream": path == "/generate_stream",
        "gen_ai.request.n": 1,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.usage.input_tokens": len(engine.requests[0].prompt_token_ids),
        "gen_ai.usage.prompt_tokens": len(engine.requests[0].prompt_token_ids),
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.completion_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.response.finish_reasons": ["length"],
    }
    assert wanted.items() <= found.items()
    assert "error.type" not in found
    assert found.get("gen_ai.response.id") == (answer.json["id"] if has_id else None)


@pytest.mark.parametrize("path", sorted(STREAMED))
def test_a_stream_has_one_too(web: TracedServer, path: str) -> None:
    answer = web.post(path, STREAMED[path], traceparent=TRACEPARENT)
    span = web.span("gen_ai.request.id", answer.headers["X-Request-Id"])
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.response.finish_reasons"] == ["eos"]
    if path.startswith("/v1"):
        assert f'"id":"{span.attributes["gen_ai.response.id"]}"'.encode() in answer.body


def test_phases_are_events_within_the_span(web: TracedServer, engine: FakeEngine) -> None:
    engine.script = lambda request: [
        replace(output(request, engine.token_ids("a")), queue_time_s=0.25, inference_time_s=0.5),
        replace(output(request, [], FinishReason.EOS), queue_time_s=0.25, inference_time_s=4.5),
    ]
    span = web.span("gen_ai.request.id", web.post("/v1/chat/completions", CHAT).headers["X-Request-Id"])
    assert set(moments(span)) == {
        *("read", "template", "tokenise", "validate", "queue", "prefill", "first_token", "decode")
    }
    assert moments(span)[:4] == ["read", "template", "tokenise", "validate"]
    times = [at for _, at, _ in span.events]
    assert times == sorted(times)
    assert span.start_ns <= times[0]
    seconds = {name: values["seconds"] for name, _, values in span.events}
    found = span.attributes
    assert (seconds["queue"], seconds["prefill"], seconds["decode"]) == (0.25, 0.5, 4.0)
    assert (found["gen_ai.latency.time_in_queue"], found["gen_ai.latency.time_in_model_prefill"]) == (0.25, 0.5)
    assert (found["gen_ai.latency.time_in_model_decode"], found["gen_ai.latency.time_in_model_inference"]) == (4, 4.5)
    assert found["gen_ai.latency.time_to_first_token"] == seconds["first_token"]
    assert found["gen_ai.latency.e2e"] >= seconds["first_token"]


def test_the_log_line_names_the_span(web: TracedServer) -> None:
    request_id = web.post("/generate", TEXT).headers["X-Request-Id"]
    span = web.span("gen_ai.request.id", request_id)
    assert (span.trace_id, span.parent_id) == (request_id, "")
    lines = [json.loads(line) for line in web.log.read_text().splitlines() if request_id in line]
    assert [(line["trace_id"], line["span_id"]) for line in lines] == [(span.trace_id, span.span_id)]


def test_what_the_caller_does_not_record_is_not_sent(web: TracedServer) -> None:
    unsampled = web.post("/generate", TEXT, traceparent=f"{TRACEPARENT[:-1]}0").headers["X-Request-Id"]
    last = web.post("/generate", TEXT, traceparent=TRACEPARENT).headers["X-Request-Id"]
    web.span("gen_ai.request.id", last)
    assert unsampled not in {span.attributes.get("gen_ai.request.id") for span in web.collector.spans}
    assert TRACE_ID in next(line for line in web.log.read_text().splitlines() if unsampled in line)


def test_sagemaker_hands_the_trace_on_in_its_attributes(web: TracedServer) -> None:
    attributes = f"tenant=blue,traceparent={TRACEPARENT},route=/v1/chat/completions"
    answer = web.post("/invocations", CHAT, X_Amzn_SageMaker_Custom_Attributes=attributes)
    span = web.span("gen_ai.request.id", answer.headers["X-Request-Id"])
    assert (span.trace_id, span.parent_id) == (TRACE_ID, PARENT_ID)


ENDS = {
    ErrorCode.OVERLOADED: (429, False, "overloaded"),
    ErrorCode.INVALID: (400, False, "validation"),
    ErrorCode.DEADLINE: (504, True, "timeout"),
    ErrorCode.ENGINE_DEAD: (503, True, "unhealthy"),
    ErrorCode.INTERNAL: (500, True, "generation"),
}


@pytest.mark.parametrize("code", ENDS)
def test_a_failure_of_the_server_is_an_error(web: TracedServer, engine: FakeEngine, code: ErrorCode) -> None:
    engine.script = lambda request: [Rejected(request.request_id, code, SECRET)]
    answer = web.post("/v1/chat/completions", CHAT)
    span = web.span("gen_ai.request.id", answer.headers["X-Request-Id"])
    status, is_error, kind = ENDS[code]
    assert (answer.status, span.attributes["http.response.status_code"]) == (status, status)
    assert (span.error, span.attributes.get("error.type")) == (is_error, kind if is_error else None)
    assert span.attributes["heir.outcome"] == kind


def test_a_failure_in_a_stream_is_an_error(web: TracedServer, engine: FakeEngine) -> None:
    engine.script = lambda request: [
        output(request, engine.token_ids("a")),
        Failed(request.request_id, ErrorCode.NUMERICS, "not a number"),
    ]
    answer = web.post("/generate_stream", TEXT)
    span = web.span("gen_ai.request.id", answer.headers["X-Request-Id"])
    assert (span.error, span.attributes["error.type"]) == (True, "generation")
    assert span.attributes["http.response.status_code"] == 200


def test_a_client_that_goes_away_is_none(web: TracedServer, engine: FakeEngine) -> None:
    never = threading.Event()
    engine.script = lambda request: [output(request, engine.token_ids("a")), never]
    with web.connect() as client:
        raw = json.dumps(TEXT).encode()
        head = f"POST /generate_stream HTTP/1.1\r\nHost: x\r\nX-Request-Id: gone\r\nContent-Length: {len(raw)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + raw)
        web.wait(lambda: len(engine.requests) == 1)
    span = web.span("heir.client_request_id", "gone")
    assert (span.attributes["heir.outcome"], span.error) == ("dropped", False)


def test_requests_that_generate_nothing(web: TracedServer) -> None:
    web.request("GET", "/v1/models?key=sesame", X_Request_Id="models")
    span = web.span("heir.client_request_id", "models")
    assert (span.name, span.attributes["url.path"]) == ("GET /v1/models", "/v1/models")
    assert not [name for name in span.attributes if name.startswith("gen_ai")]
    assert "sesame" not in str(span)
    web.request("BREW", "/nowhere", X_Request_Id="pot")
    span = web.span("heir.client_request_id", "pot")
    assert (span.name, span.attributes["http.request.method"]) == ("HTTP", "_OTHER")
    assert (span.attributes["url.path"], span.error) == ("/nowhere", False)


def test_probes_have_no_span(web: TracedServer) -> None:
    for path in ("/ping", "/health", "/metrics"):
        web.request("GET", path, X_Request_Id="probe")
    web.span("gen_ai.request.id", web.post("/generate", TEXT).headers["X-Request-Id"])
    assert not [span for span in web.collector.spans if span.attributes.get("heir.client_request_id") == "probe"]


def test_no_text_of_anybody_is_in_a_span(web: TracedServer, engine: FakeEngine) -> None:
    engine.script = engine.says(SECRET, finish=FinishReason.LENGTH)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"x": SECRET})}}
    tool = {"type": "function", "function": {"name": "f", "description": SECRET, "parameters": {"type": "object"}}}
    turns = [{"role": "user", "content": SECRET}, {"role": "assistant", "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": "c", "content": SECRET})
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"messages": turns, "tools": [tool], "stop": ["staple"], "user": SECRET}),
        ("/generate", {"inputs": SECRET, "parameters": {"stop": [SECRET]}}),
        ("/v1/messages", {"messages": turns[:1], "system": SECRET, "max_tokens": 5}),
        ("/generate", {"inputs": [SECRET]}),
    ]
    for path, body in bodies:
        answer = web.post(path, body, Authorization=f"Bearer {SECRET}")
        web.span("gen_ai.request.id", answer.headers["X-Request-Id"])
    sent = b"".join(web.collector.raw)
    assert SECRET.encode() not in sent
    assert b"staple" not in sent


def test_the_numbers_are_in_the_metrics(web: TracedServer) -> None:
    web.span("gen_ai.request.id", web.post("/generate", TEXT).headers["X-Request-Id"])
    web.wait(lambda: web.metric("heir_spans_exported_total") == len(web.collector.spans))
    assert web.metric("heir_spans_dropped_total") == 0
