"""Deltas -> TGI's answers: `generated_text` with `details`, or one event for each token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from container import sse
from container.api.tgi.generate_request import GenerateBody
from container.generation import Generation, Token
from container.served_model import ServedModel
from handler.protocol import FinishReason

_FINISH = {
    FinishReason.EOS: "eos_token",
    FinishReason.STOP_TOKEN: "eos_token",
    FinishReason.STOP_STRING: "stop_sequence",
    FinishReason.LENGTH: "length",
    FinishReason.ABORTED: "length",
}


class GenerateAnswer:
    """One answer to one TGI request, whole or streamed. `full_text` puts the prompt before the answer."""

    def __init__(self, request: GenerateBody, model: ServedModel, generation: Generation, *, full_text: bool) -> None:
        self._request = request
        self._model = model
        self._generation = generation
        self._text: list[str] = [request.inputs] if full_text else []

    def whole(self) -> dict[str, Any]:
        """`{"generated_text"}`, with `details` if asked for."""
        tokens: list[Token] = []
        reason = FinishReason.LENGTH
        for delta in self._generation.deltas():
            if delta is not None:
                self._text.append(delta.text)
                tokens += delta.tokens
                reason = delta.finish_reason or reason
        answer: dict[str, Any] = {"generated_text": "".join(self._text)}
        if self._request.parameters.details:
            answer["details"] = self._details(reason) | {
                "prefill": [],
                "tokens": [self._token(token) for token in tokens],
                **self._top_tokens_of(tokens),
            }
        return answer

    def frames(self) -> Iterator[bytes]:
        """One event for each token, from index 1; the last has the text and, if asked for, the details. No [DONE]."""
        deltas = self._generation.deltas()
        index = 0
        try:
            for delta in deltas:
                if delta is None:
                    yield sse.KEEPALIVE
                    continue
                self._text.append(delta.text)
                for i, token in enumerate(delta.tokens):
                    index += 1
                    last = i == len(delta.tokens) - 1
                    yield self._event(index, token, delta.finish_reason if last else None)
        finally:
            deltas.close()  # type: ignore[attr-defined]

    def _event(self, index: int, token: Token, reason: FinishReason | None) -> bytes:
        event: dict[str, Any] = {"index": index, "token": self._token(token)}
        if self._request.parameters.top_n_tokens:
            event["top_tokens"] = self._top_tokens(token)
        event["generated_text"] = None if reason is None else "".join(self._text)
        event["details"] = None
        if reason is not None and self._request.parameters.details:
            event["details"] = self._details(reason) | {"input_length": len(self._generation.prompt.token_ids)}
        return sse.frame(event)

    def _details(self, reason: FinishReason) -> dict[str, Any]:
        sampling = self._generation.prompt.sampling
        return {
            "finish_reason": _FINISH[reason],
            "generated_tokens": self._generation.num_tokens,
            "seed": None if sampling.greedy else sampling.seed,
        }

    def _token(self, token: Token) -> dict[str, Any]:
        logprob = token.logprob.logprob if token.logprob else 0.0
        return {"id": token.id, "text": token.text, "logprob": logprob, "special": token.special}

    def _top_tokens(self, token: Token) -> list[dict[str, Any]]:
        tokenizer = self._model.tokenizer
        return [
            {
                "id": token_id,
                "text": tokenizer.decode([token_id], skip_special_tokens=False),
                "logprob": logprob,
                "special": tokenizer.is_special(token_id),
            }
            for token_id, logprob in (token.logprob.top if token.logprob else ())
        ]

    def _top_tokens_of(self, tokens: list[Token]) -> dict[str, Any]:
        if not self._request.parameters.top_n_tokens:
            return {}
        return {"top_tokens": [self._top_tokens(token) for token in tokens]}
