"""Routes that clients of other servers try: why they are not here, and who has them.

The status is 404, as for any path that is no route: OpenAI's client shows the sentence at once, and asks a 501 again.
"""

from __future__ import annotations

_EMBEDDINGS = "this server generates text; Text Embeddings Inference (TEI) and vLLM serve models of embeddings"
_SCORES = (
    "this server generates text; Text Embeddings Inference (TEI) and vLLM serve models that rerank, score or classify"
)
_SPEECH = "this server reads and writes text; vLLM serves models of speech"
_IMAGES = "this server reads and writes text; vLLM-Omni serves models that make images and videos"
_MODERATIONS = "a guard model, served here like any other model, answers at /v1/chat/completions"
_STORED = "nothing is stored here; send each request by itself"
_OLLAMA = "Ollama's API is not spoken here; its clients' settings for OpenAI's take /v1"

# A route stands for all below it too.
_WHY: dict[str, str] = {
    **dict.fromkeys(("/v1/embeddings", "/embeddings", "/v2/embed", "/similarity"), _EMBEDDINGS),
    **dict.fromkeys(("/embed", "/embed_all", "/embed_sparse", "/pooling"), _EMBEDDINGS),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank", "/v1/ranking"), _SCORES),
    **dict.fromkeys(("/score", "/v1/score", "/classify", "/v1/classify"), _SCORES),
    **dict.fromkeys(("/v1/audio", "/v1/realtime"), _SPEECH),
    **dict.fromkeys(("/v1/images", "/v1/videos"), _IMAGES),
    "/v1/moderations": _MODERATIONS,
    **dict.fromkeys(("/v1/files", "/v1/uploads", "/v1/batches", "/v1/messages/batches", "/v1/vector_stores"), _STORED),
    "/v1/responses/input_tokens": "POST /tokenize counts the tokens of a conversation",
    "/v1/responses/compact": "this server shortens no conversation; send a shorter one",
    **dict.fromkeys(("/v1/responses", "/v1/conversations", "/v1/assistants", "/v1/threads"), _STORED),
    "/api": _OLLAMA,
}


def absent_route(path: str) -> str | None:
    """The sentence of the 404 for a path that is no route, None if it is none of these."""
    why = next((why for route, why in _WHY.items() if path == route or path.startswith(f"{route}/")), None)
    return None if why is None else f"there is no route {path[:200]}: {why}"
