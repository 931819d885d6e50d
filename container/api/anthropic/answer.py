"""One request to /v1/messages or /v1/messages/count_tokens from its body to its answer."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import msgspec
from flask import Response

from container.api.anthropic import answer_types as types
from container.api.anthropic.error_response import error_body
from container.api.anthropic.output import Output
from container.api.anthropic.request import Asked, CountRequest, MessagesRequest, parse_messages
from container.api.openai.chat import RunningChat, begin_chat
from container.api.openai.chat_prompt import chat_prompt
from container.generation.fan_out import fan_out
from container.generation.generation import Delta
from container.monitoring.request_record import RequestRecord
from container.serving.served_model import ServedModel, answered_model
from container.serving.service import service
from container.web import sse
from container.web.responses import json_response


def answer_messages(body: dict[str, Any], record: RequestRecord) -> Response:
    """Parse, admit, render, submit; then stream or collect. Raises ServiceError."""
    served = service().model
    service().check_room()
    asked = parse_messages(body, MessagesRequest, service().settings, served)
    service().admit(1)
    running = begin_chat(asked.chat, served, record)
    record.response_id = f"msg_{secrets.token_hex(12)}"
    answer = _Answer(asked, served, running, record.response_id)
    if asked.request.stream:
        response = sse.stream(answer.frames(), partial(error_body, record=record), record, sse.named)
    else:
        response = json_response(answer.whole())
    return running.with_headers(response, served, record, streams=bool(asked.request.stream))


def answer_count(body: dict[str, Any]) -> Response:
    """The length of the prompt that the same body has at /v1/messages. Raises ServiceError."""
    served = service().model
    asked = parse_messages(body, CountRequest, service().settings, served)
    return json_response(types.TokenCount(len(chat_prompt(asked.chat, served).token_ids)))


class _Answer:
    """The answer to one request."""

    def __init__(self, asked: Asked, served: ServedModel, running: RunningChat, response_id: str) -> None:
        (self._generation,), (self._choice,) = running.generations, running.choices
        self._output = Output(omits_thoughts=asked.request.omits_thoughts)
        self._head: dict[str, Any] = {
            "id": response_id,
            "model": answered_model(served, asked.request.model),
        }

    def whole(self) -> types.MessageAnswer:
        """The message object."""
        for delta in self._deltas():
            if delta is not None:
                list(self._events(delta))
        stop = self._stop()
        return self._message(stop.stop_reason, stop.stop_sequence)

    def frames(self) -> Iterator[bytes]:
        """All events in order; `ping` also in silence."""
        begun = False
        for delta in self._deltas():
            if not begun:
                begun = True
                yield sse.named(types.MessageStart(message=self._message(None, None)))
            if delta is None:
                yield sse.named(types.Ping())
            else:
                yield from map(sse.named, self._events(delta))
        yield sse.named(types.MessageDelta(delta=self._stop(), usage=self._usage()))
        yield sse.named(types.MessageStop())

    def _deltas(self) -> Iterator[Delta | None]:
        with closing(fan_out([self._generation])) as deltas:
            for _, delta in deltas:
                yield delta

    def _events(self, delta: Delta) -> Iterator[msgspec.Struct]:
        yield from self._output.add(self._choice.add(delta))
        if delta.finish_reason is not None:
            yield from self._output.finish()

    def _stop(self) -> types.Stop:
        stopped_by = self._generation.stop_string
        if stopped_by is not None:
            return types.Stop(stop_reason="stop_sequence", stop_sequence=stopped_by)
        match self._choice.finish_reason:
            case "length":
                return types.Stop(stop_reason="max_tokens", stop_sequence=None)
            case "tool_calls":
                return types.Stop(stop_reason="tool_use", stop_sequence=None)
            case _:
                return types.Stop(stop_reason="end_turn", stop_sequence=None)

    def _message(self, reason: types.StopReason | None, stop_sequence: str | None) -> types.MessageAnswer:
        return types.MessageAnswer(
            **self._head,
            content=list(self._output.blocks),
            stop_reason=reason,
            stop_sequence=stop_sequence,
            usage=self._usage(),
        )

    def _usage(self) -> types.MessageUsage:
        num_cached = self._generation.num_cached_tokens
        return types.MessageUsage(
            input_tokens=len(self._generation.prompt.token_ids) - num_cached,
            cache_read_input_tokens=num_cached,
            output_tokens=self._generation.num_tokens,
            output_tokens_details=types.ThinkingDetails(self._choice.num_reasoning_tokens),
        )
