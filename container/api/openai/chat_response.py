"""Deltas -> OpenAI's chat completion object, or its chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from container import sse
from container.api.openai.chat_request import ChatRequest
from container.api.openai.choice import Choice
from container.api.openai.logprobs import chat_entries
from container.fan_out import fan_out
from container.generation import Generation, Token
from container.served_model import ServedModel
from container.version import FINGERPRINT


class ChatAnswer:
    """One answer to one chat request, whole or streamed; choice i is made of generation i."""

    def __init__(
        self,
        request: ChatRequest,
        model: ServedModel,
        generations: list[Generation],
        choices: list[Choice],
        answer_id: str,
    ) -> None:
        self._request = request
        self._model = model
        self._generations = generations
        self._choices = choices
        self._head = {
            "id": answer_id,
            "created": int(time.time()),
            "model": request.model or model.card.model_id,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self) -> dict[str, Any]:
        """The chat.completion object."""
        for index, delta in fan_out(self._generations):
            if delta is not None:
                self._choices[index].add(delta)
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "logprobs": self._logprobs(choice.tokens),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return {"object": "chat.completion", **self._head, "choices": choices, "usage": self._usage()}

    def frames(self) -> Iterator[bytes]:
        """The chat.completion.chunk events and [DONE]. The first chunk of a choice carries the role."""
        deltas = fan_out(self._generations)
        begun: set[int] = set()
        try:
            for index, delta in deltas:
                if delta is None:
                    yield sse.KEEPALIVE
                    continue
                choice = self._choices[index]
                if index not in begun:
                    begun.add(index)
                    yield self._chunk(index, {"role": "assistant", "content": ""}, None, [])
                yield from self._part_chunks(index, choice, delta.tokens, choice.add(delta))
                if choice.finish_reason is not None:
                    yield self._chunk(index, {}, choice.finish_reason, [])
        finally:
            deltas.close()
        if self._request.include_usage:
            yield sse.frame({"object": "chat.completion.chunk", **self._head, "choices": [], "usage": self._usage()})
        yield sse.DONE

    def _part_chunks(self, index: int, choice: Choice, tokens: list[Token], parts: list[Any]) -> Iterator[bytes]:
        """A chunk for each part; log-probabilities go with the first, or alone if the text is held back."""
        if not parts and tokens and self._request.logprobs:
            yield self._chunk(index, {"content": ""}, None, tokens)
        for place, part in enumerate(parts):
            yield self._chunk(index, choice.delta_of(part), None, tokens if place == 0 else [])

    def _chunk(self, index: int, delta: dict[str, Any], finish_reason: str | None, tokens: list[Token]) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(tokens) if tokens else None,
            "finish_reason": finish_reason,
        }
        chunk: dict[str, Any] = {"object": "chat.completion.chunk", **self._head, "choices": [choice]}
        if self._request.continuous_usage:
            chunk["usage"] = self._usage()
        elif self._request.include_usage:
            chunk["usage"] = None
        return sse.frame(chunk)

    def _usage(self) -> dict[str, Any]:
        return usage_of(self._generations[:1], self._generations)

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        if not self._request.logprobs:
            return None
        return {"content": chat_entries(tokens, self._model.tokenizer), "refusal": None}


def usage_of(prompts: list[Generation], answers: list[Generation]) -> dict[str, Any]:
    """OpenAI's usage object: each prompt of `prompts` counts once, every token of `answers` counts."""
    prompt_tokens = sum(len(generation.prompt.token_ids) for generation in prompts)
    completion_tokens = sum(generation.num_tokens for generation in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(generation.num_cached_tokens for generation in prompts)},
    }
