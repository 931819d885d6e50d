"""An answer is the same whether the engine sends its tokens one by one or several in a message.

TGI has an event for each token either way; of OpenAI's chunks one holds all tokens of a message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from handler.seam.protocol import FinishReason, GenerateRequest, StepOutput, TokenLogprob
from tests.contract.seam.web import CHAT, WebServer, events
from tests.fakes.engine import Act, FakeEngine

ANSWER = "one two STOP three"
_USAGE = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT | _USAGE),
    ("/v1/chat/completions", CHAT | _USAGE | {"stop": "STOP", "logprobs": True, "top_logprobs": 1}),
    ("/v1/chat/completions", CHAT | {"stop": ["two ST"]}),
    ("/v1/completions", {"model": "m", "prompt": "x", "stop": "STOP", "logprobs": 1} | _USAGE),
    ("/generate_stream", {"inputs": "x", "parameters": {"details": True, "top_n_tokens": 1, "stop": ["STOP"]}}),
    ("/generate", {"inputs": "x", "parameters": {"details": True, "stop": ["o S"]}}),
    ("/invocations", {"inputs": "x", "stream": True, "parameters": {"details": True}}),
]


def say(engine: FakeEngine, num_tokens: int) -> None:
    """The engine answers with `num_tokens` tokens a message."""

    def script(request: GenerateRequest) -> Iterator[Act]:
        ids = engine.token_ids(ANSWER)
        scored = [TokenLogprob(-0.5 - i / 8, ((token, -0.5),)) for i, token in enumerate(ids)]
        for start in range(0, len(ids), num_tokens):
            part = slice(start, start + num_tokens)
            reason = FinishReason.LENGTH if start + num_tokens >= len(ids) else None
            yield StepOutput(request.request_id, ids[part], scored[part], None, reason, start=start)

    engine.script = script


def joined(chunks: list[dict[str, Any]]) -> list[Any]:
    """Text, log-probabilities, reason and last usage of a stream of OpenAI's chunks; other answers as they are."""
    if not all("choices" in chunk for chunk in chunks) or len(chunks) == 1:
        return chunks
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    texts = [choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices]
    scores: list[Any] = []
    for choice in choices:
        held = choice.get("logprobs") or {}
        # text_offset counts the characters before a token, held back or not.
        scores += held.get("content") or list(zip(held.get("tokens", ()), held.get("token_logprobs", ()), strict=True))
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return ["".join(texts), scores, reasons, chunks[-1].get("usage")]


def shown(web: WebServer, path: str, body: dict[str, Any]) -> list[Any]:
    """What the client gets, without the names and times of a request."""
    answer = web.post(path, body)
    assert answer.status == 200, answer.body
    parts = events(answer.body) if b"data:" in answer.body else [answer.body.decode()]
    found = [json.loads(part) for part in parts if part != "[DONE]"]
    return joined([{k: v for k, v in each.items() if k not in {"id", "created"}} for each in found])


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_the_answer_does_not_show_how_it_was_cut(
    web: WebServer, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    say(engine, 1)
    expected = shown(web, path, body)
    assert expected
    for num_tokens in (2, 5, 100):
        say(engine, num_tokens)
        assert shown(web, path, body) == expected
