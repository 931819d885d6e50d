"""A body for each route that has one, whose request may name an adapter."""

from __future__ import annotations

from typing import Any

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
CASES: list[tuple[str, dict[str, Any]]] = [
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
ROUTED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": PROMPT,
    "/generate": TEXT,
    "/generate_stream": TEXT,
}
# They read a text and generate nothing.
COUNTING = ("/tokenize", "/detokenize", "/chat_tokenize", "/v1/messages/count_tokens")


def is_openai(path: str, body: dict[str, Any]) -> bool:
    """Whether errors are in the form of OpenAI, System One or Anthropic, not TGI's."""
    return path.startswith(("/v1/", "/detokenize")) or (path in {"/invocations", "/tokenize"} and "inputs" not in body)


def check_refusal(answer: Any, sentence: str, *, openai: bool, code: str = "adapter_not_found") -> None:
    """OpenAI's dialects, System One and Anthropic's answer 404, as for an unknown model; TGI's 422, as for any
    parameter."""
    if openai and "detail" in answer.json:
        assert answer.status == 404, answer.body
        assert answer.json["detail"] == {"error_type": "not_found_error", "message": sentence}
    elif openai:
        assert answer.status == 404, answer.body
        assert answer.json["error"]["message"] == sentence
        is_anthropic = answer.json.get("type") == "error"
        kind = answer.json["error"]["type" if is_anthropic else "code"]
        assert kind == ("not_found_error" if is_anthropic else code)
    else:
        assert answer.status == 422, answer.body
        assert answer.json == {"error": f"Input validation error: {sentence}", "error_type": "validation"}
