"""A request that names an adapter is refused in the route's dialect: the base model never answers for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.server import Server

ADAPTER = "X-Amzn-SageMaker-Adapter-Identifier"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
TEXT = {"inputs": "hello", "parameters": {"max_new_tokens": 2}}
PROMPT = {"prompt": "hello", "max_tokens": 2}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
RESPONSE = {"input": "hi", "max_output_tokens": 16}
MESSAGES = CHAT | {"model": "claude"}
DECISION = {"input": "hi", "questions": [{"type": "predicate", "instructions": "Is it?"}]}
SYSTEM_ONE = {"state": "hi", "questions": {"q": {"type": "noul"}}}
STREAM = {"stream": True}
CASES = [
    ("/", TEXT),
    ("/predict", TEXT | STREAM),
    ("/generate", TEXT),
    ("/generate_stream", TEXT),
    ("/tokenize", TEXT),
    ("/tokenize", {"prompt": "hello"}),
    ("/tokenize", {"messages": CHAT["messages"]}),
    ("/detokenize", {"tokens": [1]}),
    ("/chat_tokenize", CHAT),
    ("/vertex", {"instances": [TEXT]}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | STREAM),
    ("/v1/completions", PROMPT),
    ("/v1/completions", PROMPT | STREAM),
    ("/v1/responses", RESPONSE),
    ("/v1/responses", RESPONSE | STREAM),
    ("/v1/decisions", DECISION),
    ("/v1/systemone", SYSTEM_ONE),
    ("/v1/messages", MESSAGES),
    ("/v1/messages", MESSAGES | STREAM),
    ("/v1/messages/count_tokens", MESSAGES),
    ("/invocations", RESPONSE),
    ("/invocations", DECISION),
    ("/invocations", SYSTEM_ONE),
    ("/invocations", MESSAGES | {"anthropic_version": "bedrock-2023-05-31"}),
    *(("/invocations", body | stream) for body in (TEXT, CHAT, PROMPT) for stream in ({}, STREAM)),
]
ROUTED = {"/v1/chat/completions": CHAT, "/v1/completions": PROMPT, "/generate": TEXT, "/generate_stream": TEXT}


def check_refusal(answer: Any, place: str, *, openai: bool) -> None:
    """OpenAI's dialects, System One and Anthropic's answer 404, as for an unknown model; TGI's 422, as for any
    parameter."""
    sentence = f'`{place}` must be absent, this server has no adapters. Given: "my-lora"'
    if openai and "detail" in answer.json:
        assert answer.status == 404, answer.body
        assert answer.json["detail"] == {"error_type": "not_found_error", "message": sentence}
    elif openai:
        assert answer.status == 404, answer.body
        assert answer.json["error"]["message"] == sentence
        is_anthropic = answer.json.get("type") == "error"
        kind = answer.json["error"]["type" if is_anthropic else "code"]
        assert kind == ("not_found_error" if is_anthropic else "adapter_not_found")
    else:
        assert answer.status == 422, answer.body
        assert answer.json == {"error": f"Input validation error: {sentence}", "error_type": "validation"}


def is_openai(path: str, body: dict[str, Any]) -> bool:
    return path.startswith(("/v1/", "/detokenize")) or (path in {"/invocations", "/tokenize"} and "inputs" not in body)


@pytest.mark.parametrize(("path", "body"), CASES)
def test_sagemakers_header_is_refused(tiny_server: Server, path: str, body: dict[str, Any]) -> None:
    answer = tiny_server.request("POST", path, body, **{ADAPTER: "my-lora"})
    check_refusal(answer, ADAPTER, openai=is_openai(path, body))


def test_every_route_with_a_body_is_among_them(tiny_server: Server) -> None:
    paths = tiny_server.request("GET", "/api-doc/openapi.json").json["paths"]
    with_body = {path for path, methods in paths.items() if "requestBody" in methods.get("post", {})}
    assert with_body == {path for path, _ in CASES}


@pytest.mark.parametrize("route", ROUTED)
def test_a_route_in_the_attributes_changes_nothing(tiny_server: Server, route: str) -> None:
    headers = {ADAPTER: "my-lora", ATTRIBUTES: f"route={route}"}
    answer = tiny_server.request("POST", "/invocations", ROUTED[route], **headers)
    check_refusal(answer, ADAPTER, openai=is_openai(route, {}))


@pytest.mark.parametrize(("path", "body"), CASES)
@pytest.mark.parametrize("adapters", ["my-lora", ["", "my-lora"]])
def test_lmis_field_is_refused(tiny_server: Server, path: str, body: dict[str, Any], adapters: Any) -> None:
    answer = tiny_server.request("POST", path, body | {"adapters": adapters})
    check_refusal(answer, "adapters", openai=is_openai(path, body))


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/generate", {"inputs": "hello", "parameters": {"adapters": "my-lora"}}, "adapters"),
        ("/generate", {"inputs": "hello", "parameters": {"adapter_id": "my-lora"}}, "adapter_id"),
        ("/invocations", {"inputs": "hello", "parameters": {"adapter_id": "my-lora"}, "stream": True}, "adapter_id"),
        ("/vertex", {"instances": [TEXT, TEXT | {"adapters": ["my-lora"]}]}, "adapters"),
        ("/vertex", {"instances": [{"inputs": "hello", "parameters": {"adapter_id": "my-lora"}}]}, "adapter_id"),
    ],
)
def test_a_name_in_any_other_place_is_refused(tiny_server: Server, path: str, body: Any, place: str) -> None:
    check_refusal(tiny_server.request("POST", path, body), place, openai=False)


@pytest.mark.parametrize(("path", "body"), CASES)
def test_no_name_is_no_adapter(tiny_server: Server, path: str, body: dict[str, Any]) -> None:
    for adapters in (None, "", [], ["", None]):
        answer = tiny_server.request("POST", path, body | {"adapters": adapters}, **{ADAPTER: ""})
        assert answer.status == 200, answer.body


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/adapters", "/adapters?name=a&src=/b", "/adapters/my-lora", "/adapters/a/update"])
def test_adapters_cannot_be_managed(tiny_server: Server, method: str, path: str) -> None:
    answer = tiny_server.request(method, path, {"name": "a", "src": "/b"} if method == "POST" else None)
    assert (answer.status, answer.json["error_type"]) == (404, "not_found")
    assert "does not serve adapters yet" in answer.json["error"]
