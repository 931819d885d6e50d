"""Deltas -> OpenAI's chat completion object, or its chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from container import sse
from container.api.openai.chat_request import ChatRequest
from container.generation import Delta, Generation, Token
from container.served_model import ServedModel
from container.version import FINGERPRINT
from handler.protocol import FinishReason

_FINISH = {
    FinishReason.EOS: "stop",
    FinishReason.STOP_TOKEN: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ABORTED: "stop",
}


class ChatAnswer:
    """One answer to one chat request, whole or streamed."""

    def __init__(self, request: ChatRequest, model: ServedModel, generation: Generation, answer_id: str) -> None:
        self._request = request
        self._model = model
        self._generation = generation
        self._head = {
            "id": answer_id,
            "created": int(time.time()),
            "model": request.model or model.card.model_id,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self) -> dict[str, Any]:
        """The chat.completion object."""
        text: list[str] = []
        logprobs: list[dict[str, Any]] = []
        reason = FinishReason.LENGTH
        for delta in self._generation.deltas():
            if delta is None:
                continue
            text.append(delta.text)
            logprobs += self._logprobs(delta.tokens)
            reason = delta.finish_reason or reason
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(text), "refusal": None},
            "logprobs": {"content": logprobs, "refusal": None} if self._request.logprobs else None,
            "finish_reason": _FINISH[reason],
        }
        return {"object": "chat.completion", **self._head, "choices": [choice], "usage": self._usage()}

    def frames(self) -> Iterator[bytes]:
        """The chat.completion.chunk events and [DONE]. The first chunk carries the role."""
        deltas = self._generation.deltas()
        first = True
        try:
            for delta in deltas:
                if delta is None:
                    yield sse.KEEPALIVE
                    continue
                if first:
                    yield self._chunk({"role": "assistant", "content": ""}, None, [])
                    first = False
                if delta.text or (self._request.logprobs and delta.tokens):
                    yield self._chunk({"content": delta.text}, None, delta.tokens)
                if delta.finish_reason is not None:
                    yield self._chunk({}, _FINISH[delta.finish_reason], [])
        finally:
            deltas.close()  # type: ignore[attr-defined]
        options = self._request.stream_options
        if options is not None and options.include_usage:
            yield sse.frame({"object": "chat.completion.chunk", **self._head, "choices": [], "usage": self._usage()})
        yield sse.DONE

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None, tokens: list[Token]) -> bytes:
        choice: dict[str, Any] = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        if self._request.logprobs and tokens:
            choice["logprobs"] = {"content": self._logprobs(tokens), "refusal": None}
        chunk: dict[str, Any] = {"object": "chat.completion.chunk", **self._head, "choices": [choice]}
        options = self._request.stream_options
        if options is not None and options.continuous_usage_stats:
            chunk["usage"] = self._usage()
        elif options is not None and options.include_usage:
            chunk["usage"] = None
        return sse.frame(chunk)

    def _usage(self) -> dict[str, Any]:
        prompt_tokens = len(self._generation.prompt.token_ids)
        completion_tokens = self._generation.num_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._generation.num_cached_tokens},
        }

    def _logprobs(self, tokens: list[Token]) -> list[dict[str, Any]]:
        return [self._logprob(token) for token in tokens if token.logprob is not None]

    def _logprob(self, token: Token) -> dict[str, Any]:
        found = token.logprob
        top = [self._entry(token_id, value) for token_id, value in found.top] if found else []
        return {**self._entry(token.id, found.logprob if found else 0.0), "top_logprobs": top}

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        """`bytes` are exact only for tokens that are whole characters."""
        text = self._model.tokenizer.decode([token_id], skip_special_tokens=False)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}


__all__ = ["ChatAnswer", "Delta"]
