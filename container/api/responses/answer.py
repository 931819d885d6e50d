"""One request to /v1/responses from its body to its answer, whole or streamed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Literal

import msgspec
from flask import Response

from container.api.openai.answer_types import ChatDelta, ScoredToken
from container.api.openai.chat import RunningChat, begin_chat
from container.api.openai.logprobs import ChatLogprobs
from container.api.responses import answer_types as types
from container.api.responses.output import Output
from container.api.responses.request import Asked, parse_response
from container.errors import ServiceError
from container.generation.fan_out import fan_out
from container.generation.generation import Delta
from container.monitoring.request_record import RequestRecord
from container.serving.served_model import ServedModel, answered_model
from container.serving.service import service
from container.web import sse
from container.web.responses import json_response

_FAULTS = {429: "rate_limit_exceeded", 400: "invalid_prompt"}
_Kind = Literal[
    "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
]


def answer_response(body: dict[str, Any], record: RequestRecord) -> Response:
    """Parse, admit, render, submit; then stream or collect. Raises ServiceError."""
    served = service().model
    service().check_room()
    asked = parse_response(body, service().settings, served.card.vocab_size)
    service().admit(1)
    running = begin_chat(asked.chat, served, record)
    record.response_id = f"resp_{secrets.token_hex(16)}"
    answer = _Answer(asked, served, running, record.response_id)
    if asked.request.stream:
        response = sse.stream(answer.frames(), answer.failed, record, sse.named)
    else:
        response = json_response(answer.whole())
    return running.with_headers(response, served, record, streams=bool(asked.request.stream))


class _Answer:
    """The answer to one request."""

    def __init__(self, asked: Asked, served: ServedModel, running: RunningChat, response_id: str) -> None:
        request = asked.request
        (self._generation,), (self._choice,) = running.generations, running.choices
        self._output = Output(asked.offered, encrypts=request.wants_encrypted)
        self._logprobs = None if request.num_logprobs is None else ChatLogprobs(served.tokenizer)
        self._scored: list[ScoredToken] = []
        self._thought = False
        self._head = {
            "id": response_id,
            "created_at": int(time.time()),
            "model": answered_model(served, request.model),
            **_repeated(asked),
        }

    def whole(self) -> types.ResponseAnswer:
        """The response object."""
        for delta in self._deltas():
            if delta is not None:
                list(self._events(delta))
        return self._now(self._status)

    def frames(self) -> Iterator[bytes]:
        """All events in order; the last has the whole response. In silence `response.in_progress` is repeated."""
        begun = False
        for delta in self._deltas():
            if not begun:
                begun = True
                yield self._event("response.created")
                yield self._event("response.in_progress")
            elif delta is None:
                yield self._event("response.in_progress")
            if delta is not None:
                yield from map(sse.named, self._events(delta))
        yield self._event("response.incomplete" if self._status == "incomplete" else "response.completed")

    def _deltas(self) -> Iterator[Delta | None]:
        with closing(fan_out([self._generation])) as deltas:
            for _, delta in deltas:
                yield delta

    def failed(self, error: ServiceError) -> types.ResponseEvent:
        """The last event of a stream that fails."""
        fault = types.ResponseFault(code=_FAULTS.get(error.status, "server_error"), message=error.message)
        found = msgspec.structs.replace(self._now("failed"), error=fault, incomplete_details=None)
        return types.ResponseEvent(type="response.failed", response=found, sequence_number=self._output.next_number())

    def _events(self, delta: Delta) -> Iterator[msgspec.Struct]:
        # Log-probabilities stand beside the text of their token.
        for part in (delta,) if self._logprobs is None else delta.singles():
            before = self._choice.num_reasoning_tokens
            deltas = self._choice.add(part)
            scored = self._scored_of(part, deltas, thinks=self._choice.num_reasoning_tokens > before)
            yield from self._output.add(deltas, scored)
        if delta.finish_reason is not None:
            yield from self._output.finish(cut=self._status == "incomplete")

    def _scored_of(self, delta: Delta, deltas: Sequence[ChatDelta], *, thinks: bool) -> list[ScoredToken]:
        """The entries of the text's tokens, also of those whose text was held back; none of thoughts and calls.

        `thinks`: the token of `delta` is a thought's.
        """
        if self._logprobs is None:
            return []
        says = any(isinstance(each.content, str) for each in deltas)
        self._scored += self._logprobs.entries(delta.tokens)
        # The mark that ends a thought comes after its last token.
        found = self._scored if says else []
        if deltas or thinks or self._thought:
            self._scored = []
        self._thought = thinks
        return found

    @property
    def _status(self) -> Literal["completed", "incomplete", "in_progress"]:
        if self._choice.finish_reason is None:
            return "in_progress"
        return "incomplete" if self._choice.finish_reason == "length" else "completed"

    def _event(self, kind: _Kind) -> bytes:
        return sse.named(
            types.ResponseEvent(type=kind, response=self._now(self._status), sequence_number=self._output.next_number())
        )

    def _now(self, status: Literal["completed", "incomplete", "in_progress", "failed"]) -> types.ResponseAnswer:
        ended = status != "in_progress"
        return types.ResponseAnswer(
            **self._head,
            status=status,
            output=self._output.so_far if ended else self._output.items,
            completed_at=int(time.time()) if status == "completed" else None,
            incomplete_details=types.IncompleteDetails("max_output_tokens") if status == "incomplete" else None,
            usage=self._usage() if ended else None,
        )

    def _usage(self) -> types.ResponseUsage:
        num_input, num_output = len(self._generation.prompt.token_ids), self._generation.num_tokens
        return types.ResponseUsage(
            input_tokens=num_input,
            input_tokens_details=types.InputDetails(cached_tokens=self._generation.num_cached_tokens),
            output_tokens=num_output,
            output_tokens_details=types.OutputDetails(reasoning_tokens=self._choice.num_reasoning_tokens),
            total_tokens=num_input + num_output,
        )


def _repeated(asked: Asked) -> dict[str, Any]:
    """What a response says of its request, with the values of fields that were left out."""
    request, body = asked.request, asked.body
    reasoning: dict[str, Any] = {"effort": None, "summary": None}
    return {
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": reasoning | (body.get("reasoning") or {}),
        "safety_identifier": request.safety_identifier,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": {"type": "text"}} | {k: v for k, v in (body.get("text") or {}).items() if v is not None},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "user": request.user,
    }
