"""Deltas -> OpenAI's chat completion object, or its chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from msgspec import UNSET, structs

from container.api.openai.answer_types import (
    AnswerMessage,
    ChatChoiceAnswer,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatFinish,
    ChatLogprobsAnswer,
    ChunkChoice,
    CompletionTokensDetails,
    Usage,
)
from container.api.openai.chat_request import Chat
from container.api.openai.choice import Choice
from container.api.openai.logprobs import ChatLogprobs, prompt_entries
from container.api.openai.usage import chunk_usage, usage_of
from container.generation.fan_out import fan_out
from container.generation.generation import Generation, Token
from container.serving.served_model import ServedModel, answered_model
from container.version import FINGERPRINT
from container.web import sse


class ChatAnswer:
    """The answer to one chat request, whole or streamed; choice i reads generation i."""

    def __init__(
        self,
        chat: Chat,
        model: ServedModel,
        generations: list[Generation],
        choices: list[Choice],
        answer_id: str,
    ) -> None:
        self._request = request = chat.request
        self._echo = chat.echoed
        self._generations = generations
        self._choices = choices
        self._logprobs = [self._list_of(model) for _ in choices] if request.logprobs else []
        self._tokenizer = model.tokenizer
        self._head: dict[str, Any] = {
            "id": answer_id,
            "created": int(time.time()),
            "model": answered_model(model, request.model),
            "system_fingerprint": FINGERPRINT,
        }
        if request.service_tier is not None:
            self._head["service_tier"] = "default"
        # Whether all chunks of a choice that only add text differ in the text alone.
        self._alike = not (request.logprobs or request.return_token_ids or request.continuous_usage)
        self._text_frames: dict[int, sse.TextFrames] = {}

    def _list_of(self, model: ServedModel) -> ChatLogprobs:
        return ChatLogprobs(model.tokenizer, as_ids=bool(self._request.return_tokens_as_token_ids))

    def whole(self) -> ChatCompletion:
        """The chat.completion object."""
        for index, delta in fan_out(self._generations):
            if delta is not None:
                self._choices[index].add(delta)
        choices = [
            ChatChoiceAnswer(
                index=index,
                message=self._whole_message(choice),
                logprobs=self._scored(index, choice.tokens),
                finish_reason=choice.finish_reason or "stop",
                token_ids=[token.id for token in choice.tokens] if self._request.return_token_ids else UNSET,
            )
            for index, choice in enumerate(self._choices)
        ]
        asked: dict[str, Any] = {}
        first = self._generations[0]
        if self._request.return_token_ids:
            asked["prompt_token_ids"] = first.prompt.token_ids
        if (num_top := self._request.prompt_logprobs) is not None:
            # The time may have run out for some of the choices, whose prompt is the same.
            scored = next((each for each in self._generations if each.prompt_logprobs is not None), first).prompt_scores
            asked["prompt_logprobs"] = prompt_entries(first.prompt.token_ids, scored, num_top, self._tokenizer)
        return ChatCompletion(**self._head, **asked, choices=choices, usage=self._usage())

    def _whole_message(self, choice: Choice) -> AnswerMessage:
        found = choice.message()
        return structs.replace(found, content=self._echo + (found.content or "")) if self._echo else found

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
                    yield self._chunk(index, ChatDelta(role="assistant", content=""), None, [], begins=True)
                    if self._echo:
                        yield self._chunk(index, ChatDelta(content=self._echo), None, [])
                yield from self._delta_chunks(index, delta.tokens, choice.add(delta))
                if choice.finish_reason is not None:
                    yield self._chunk(index, ChatDelta(), choice.finish_reason, [])
        finally:
            deltas.close()
        if self._request.include_usage:
            yield sse.frame(ChatChunk(**self._head, choices=[], usage=self._usage()))
        yield sse.DONE

    def _delta_chunks(self, index: int, tokens: list[Token], deltas: list[ChatDelta]) -> Iterator[bytes]:
        """A chunk for each delta; what belongs to tokens goes with the first, or into a chunk of its own."""
        if not deltas and tokens and (self._request.logprobs or self._request.return_token_ids):
            yield self._chunk(index, ChatDelta(content=""), None, tokens)
        for i, delta in enumerate(deltas):
            if self._alike and delta.content is not UNSET:
                yield self._text_frame(index, delta.content)
            else:
                yield self._chunk(index, delta, None, tokens if i == 0 else [])

    def _text_frame(self, index: int, text: str) -> bytes:
        """The chunk of a choice that adds `text` and nothing else."""
        frames = self._text_frames.get(index)
        if frames is None:
            frames = sse.TextFrames(lambda text: self._event(index, ChatDelta(content=text), None, []))
            self._text_frames[index] = frames
        return frames.frame(text)

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        finish_reason: ChatFinish | None,
        tokens: list[Token],
        *,
        begins: bool = False,
    ) -> bytes:
        return sse.frame(self._event(index, delta, finish_reason, tokens, begins=begins))

    def _event(
        self,
        index: int,
        delta: ChatDelta,
        finish_reason: ChatFinish | None,
        tokens: list[Token],
        *,
        begins: bool = False,
    ) -> ChatChunk:
        returns_ids = bool(self._request.return_token_ids)
        choice = ChunkChoice(
            index=index,
            delta=delta,
            logprobs=self._scored(index, tokens) if tokens else None,
            finish_reason=finish_reason,
            token_ids=[token.id for token in tokens] if tokens and returns_ids else UNSET,
        )
        usage = chunk_usage(self._request, self._usage)
        prompt = self._generations[index].prompt.token_ids if begins and returns_ids else UNSET
        return ChatChunk(**self._head, choices=[choice], usage=usage, prompt_token_ids=prompt)

    def _usage(self) -> Usage:
        reasoning_tokens = sum(choice.num_reasoning_tokens for choice in self._choices)
        return usage_of(self._generations[:1], self._generations, CompletionTokensDetails(reasoning_tokens))

    def _scored(self, index: int, tokens: list[Token]) -> ChatLogprobsAnswer | None:
        return ChatLogprobsAnswer(self._logprobs[index].entries(tokens)) if self._logprobs else None
