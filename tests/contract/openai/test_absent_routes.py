"""Routes that clients try and a server of text does not have: one sentence that says who has them, in the dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.contract.openai.scripted import ScriptedServer

# Path -> the word that tells where to go.
TRIED = {
    **dict.fromkeys(
        ("/v1/embeddings", "/embed", "/embed_sparse", "/pooling", "/v2/embed"), "Text Embeddings Inference"
    ),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/classify"), "TEI"),
    **dict.fromkeys(("/v1/audio/speech", "/v1/audio/transcriptions"), "vLLM serves models of speech"),
    **dict.fromkeys(("/v1/images/generations", "/v1/videos"), "vLLM-Omni"),
    "/v1/moderations": "guard model",
    **dict.fromkeys(
        ("/v1/files", "/v1/batches/b_1", "/v1/responses/r/cancel", "/v1/messages/batches"), "is stored here"
    ),
    "/v1/responses/input_tokens": "/tokenize counts",
    "/v1/responses/compact": "send a shorter one",
    "/api/chat": "OpenAI's",
}


@pytest.mark.parametrize("path", TRIED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_sentence_in_the_dialect(qwen: ScriptedServer, path: str, method: str) -> None:
    answer = qwen.request(method, path, {"input": "x"} if method == "POST" else None)
    assert answer.status == 404, answer.body
    error = answer.json["error"]
    sentence = error["message"] if path.startswith("/v1") else error
    assert sentence.startswith(f"there is no route {path}: ")
    assert TRIED[path] in sentence
    assert (answer.json.get("type") == "error") == path.startswith("/v1/messages")


def test_a_path_that_only_begins_alike_is_unknown(qwen: ScriptedServer) -> None:
    for path in ("/embedded", "/v1/filesystem", "/apis", "/v1/nothing"):
        assert "there is no route GET" in str(qwen.request("GET", path).json["error"])


CALLS: dict[str, Callable[[openai.OpenAI], Any]] = {
    "embeddings": lambda client: client.embeddings.create(model="m", input="x"),
    "moderations": lambda client: client.moderations.create(input="x"),
    "images": lambda client: client.images.generate(prompt="x"),
    "speech": lambda client: client.audio.speech.create(model="m", voice="alloy", input="x"),
}


@pytest.mark.parametrize("call", CALLS)
def test_openais_client_shows_it_and_asks_once(qwen: ScriptedServer, call: str) -> None:
    """It would ask a 501 three times."""
    asked: list[str] = []
    http_client = openai.DefaultHttpxClient(event_hooks={"request": [lambda request: asked.append(request.url.path)]})
    client = openai.OpenAI(base_url=f"{qwen.url}/v1", api_key="-", http_client=http_client)
    with pytest.raises(openai.NotFoundError, match="there is no route /v1/"):
        CALLS[call](client)
    assert len(asked) == 1
