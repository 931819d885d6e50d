"""One /v1/completions request, OpenAI's older API that continues a text, from its body to its answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from flask import Response, request
from msgspec import structs

from container.api.answer_headers import add_stream_headers, add_whole_headers
from container.api.openai.answer_types import TextChoice, TextCompletion, TextFinish, Usage
from container.api.openai.bad_words import banned_sequences
from container.api.openai.completion_request import Completion, parse_completion, tokenized
from container.api.openai.error_response import error_body
from container.api.openai.logprobs import CompletionLogprobs, Scored, prompt_entries
from container.api.openai.sampling import of_choice, sampling_params, text_options
from container.api.openai.template_traits import traits_of
from container.api.openai.thinking_budget import thinking_limit
from container.api.openai.usage import chunk_usage, usage_of
from container.errors import InvalidRequest
from container.generation.fan_out import fan_out
from container.generation.generation import Delta, Generation, Prompt
from container.monitoring.request_record import RequestRecord
from container.serving.served_model import ServedModel, answered_model
from container.serving.service import service
from container.version import FINGERPRINT
from container.web import sse
from container.web.responses import json_response
from handler.seam.protocol import FinishReason, ThinkingLimit

_FINISH: dict[FinishReason, TextFinish] = {FinishReason.LENGTH: "length"}


def answer_completion(body: dict[str, Any], record: RequestRecord) -> Response:
    """Parse, admit, tokenize, submit; then stream or collect. Raises ServiceError."""
    served = service().model
    service().check_room()
    completion = parse_completion(body, service().settings, served.card.vocab_size)
    service().admit(len(completion.prompts) * completion.num_candidates)
    generations = [
        service().generate(prompt.with_sampling(of_choice(prompt.sampling, index)), request, record)
        for prompt in _prompts(completion, served, record)
        for index in range(completion.num_candidates)
    ]
    record.response_id = f"cmpl-{completion.request.request_id or secrets.token_hex(12)}"
    answer = CompletionAnswer(completion, served, generations, record.response_id)
    if completion.request.stream:
        response = sse.stream(answer.frames(), error_body, record)
    else:
        response = json_response(answer.whole())
        add_whole_headers(response, record, generations[:: completion.num_candidates], generations)
    add_stream_headers(response, service().settings, served, completion.num_chars)
    return response


def _prompts(completion: Completion, served: ServedModel, record: RequestRecord) -> Iterator[Prompt]:
    prompts = tokenized(completion, served)
    bad_words = banned_sequences(completion.request.bad_words, served.tokenizer)
    adapters = record.prompt_adapters or (None,) * len(prompts)
    for token_ids, adapter in zip(prompts, adapters, strict=True):
        yield replace(_prompt(completion, served, record, token_ids, bad_words), adapter=adapter)


def _prompt(
    completion: Completion,
    served: ServedModel,
    record: RequestRecord,
    token_ids: list[int],
    bad_words: tuple[tuple[int, ...], ...],
) -> Prompt:
    wanted = completion.request
    if not token_ids:
        raise InvalidRequest("`prompt` must hold at least one token", param="prompt")
    # The engine generates at least one token; with `max_tokens` 0 (`echo` alone) it is not shown.
    max_tokens = served.check_length(len(token_ids), max(1, completion.max_tokens))
    num_logprobs = wanted.logprobs
    if completion.num_candidates > wanted.num_choices and num_logprobs is None:
        num_logprobs = 0  # best_of ranks by log-probability
    return Prompt(
        token_ids=token_ids,
        sampling=sampling_params(
            wanted,
            max_tokens,
            num_logprobs=num_logprobs,
            num_prompt_logprobs=wanted.num_prompt_logprobs,
            grammar=None if completion.constraint is None else completion.constraint.grammar,
            thinking=_thinking(completion, served, token_ids),
            bad_words=bad_words,
        ),
        stop=wanted.stop_strings,
        **text_options(wanted),
        timeout_s=service().timeout_s(record, streaming=bool(wanted.stream)),
        cache_salt=wanted.cache_salt or "",
        reuse_prefix=wanted.cache_prompt is not False,
    )


def _thinking(completion: Completion, served: ServedModel, token_ids: list[int]) -> ThinkingLimit | None:
    """The budget of the answer's thoughts, where the model's chat template says that it has any."""
    template = served.chat_template
    forms = () if template is None else traits_of(template, served.tokenizer).thoughts.forms
    budget = completion.request.thinking_token_budget
    found = thinking_limit(budget, token_ids, served.tokenizer, forms=forms)
    return None if completion.constraint is not None else found


class CompletionAnswer:
    """The answer to one request. Candidates of one prompt are adjacent; without best_of each is a choice."""

    def __init__(
        self, completion: Completion, served: ServedModel, generations: list[Generation], response_id: str
    ) -> None:
        self._completion = completion
        self._request = completion.request
        self._tokenizer = served.tokenizer
        self._generations = generations
        self._texts: list[list[str]] = [[] for _ in generations]
        self._scored: list[list[Scored]] = [[] for _ in generations]
        self._ids: list[list[int]] = [[] for _ in generations]
        self._reasons: list[TextFinish | None] = [None for _ in generations]
        self._head: dict[str, Any] = {
            "id": response_id,
            "created": int(time.time()),
            "model": answered_model(served, self._request.model),
            "system_fingerprint": FINGERPRINT,
        }
        request = self._request
        # Whether all chunks of a choice that only add text differ in the text alone.
        self._alike = request.logprobs is None and not (request.return_token_ids or request.continuous_usage)
        self._text_frames: dict[int, sse.TextFrames] = {}

    def whole(self) -> TextCompletion:
        """The text_completion object."""
        for index, delta in fan_out(self._generations):
            if delta is not None:
                self._add(index, delta)
        choices = []
        for number, index in enumerate(self._chosen()):
            scored = self._echoed(index) + self._scored[index]
            text = self._echo_text(index) + "".join(self._texts[index])
            choice = self._choice(number, text, scored, self._lists(), index)
            choices.append(structs.replace(choice, **self._asked(index, self._ids[index], begins=True)))
        return TextCompletion(**self._head, choices=choices, usage=self._usage())

    def frames(self) -> Iterator[bytes]:
        """Chunks of all choices as they come, then usage if requested, then one [DONE]."""
        deltas = fan_out(self._generations)
        lists = [self._lists() for _ in self._generations]
        begun: set[int] = set()
        try:
            for index, delta in deltas:
                if delta is None:
                    yield sse.KEEPALIVE
                    continue
                num_before = len(self._ids[index])
                text, scored = self._add(index, delta)
                begins = index not in begun
                if begins:
                    begun.add(index)
                    text, scored = self._echo_text(index) + text, self._echoed(index) + scored
                if self._alike and self._reasons[index] is None:
                    if text:
                        yield self._text_frame(index, text)
                    continue
                asked = self._asked(index, self._ids[index][num_before:], begins=begins)
                if text or asked or self._request.logprobs is not None or self._reasons[index] is not None:
                    choice = self._choice(index, text, scored, lists[index], index)
                    yield self._chunk(structs.replace(choice, **asked))
        finally:
            deltas.close()
        if self._request.include_usage:
            yield sse.frame(TextCompletion(**self._head, choices=[], usage=self._usage()))
        yield sse.DONE

    def _add(self, index: int, delta: Delta) -> tuple[str, list[Scored]]:
        """The delta's visible part: its text, and its tokens without those that the text leaves out.

        Behind an echoed prompt, whose tokens are all there, they are all there too: scoring tools count them.
        """
        if delta.finish_reason is not None:
            self._reasons[index] = _FINISH.get(delta.finish_reason, "stop")
        if self._completion.max_tokens == 0:
            self._reasons[index] = "length"
            return "", []
        scored: list[Scored] = [
            (token.id, token.logprob) for token in delta.tokens if self._request.echo or not token.hidden
        ]
        self._texts[index].append(delta.text)
        self._ids[index] += [token.id for token in delta.tokens]
        self._scored[index] += scored
        return delta.text, scored

    def _lists(self) -> CompletionLogprobs:
        as_ids = bool(self._request.return_tokens_as_token_ids)
        return CompletionLogprobs(self._tokenizer, shows_special=self._request.shows_special, as_ids=as_ids)

    def _asked(self, index: int, token_ids: list[int], *, begins: bool) -> dict[str, Any]:
        """vLLM's fields of a choice, or of a chunk of it with the new `token_ids`."""
        found: dict[str, Any] = {}
        prompt, num_top = self._generations[index].prompt.token_ids, self._request.prompt_logprobs
        if self._request.return_token_ids:
            found["token_ids"] = token_ids
        if self._request.return_token_ids and begins:
            found["prompt_token_ids"] = prompt
        if num_top is not None and not self._request.stream:
            scored = self._generations[index].prompt_scores
            found["prompt_logprobs"] = prompt_entries(prompt, scored, num_top, self._tokenizer)
        return found

    def _chosen(self) -> list[int]:
        """The `n` best candidates of each prompt by mean log-probability, in the order of the prompts."""
        per_prompt, wanted = self._completion.num_candidates, self._request.num_choices
        chosen: list[int] = []
        for first in range(0, len(self._generations), per_prompt):
            group = list(range(first, first + per_prompt))
            if per_prompt > wanted:
                group = sorted(group, key=self._mean_logprob, reverse=True)[:wanted]
            chosen += group
        return chosen

    def _mean_logprob(self, index: int) -> float:
        values = [found.logprob for _, found in self._scored[index] if found is not None]
        return sum(values) / max(1, len(values))

    def _echo_text(self, index: int) -> str:
        if not self._request.echo:
            return ""
        ids = self._generations[index].prompt.token_ids
        return self._tokenizer.decode(ids, skip_special_tokens=not self._request.shows_special)

    def _echoed(self, index: int) -> list[Scored]:
        """The prompt's tokens with their log-probabilities; the first token has none."""
        generation = self._generations[index]
        if not self._request.echo or self._request.logprobs is None:
            return []
        ids = generation.prompt.token_ids
        listed = [structs.replace(each, top=each.top[: self._request.logprobs]) for each in generation.prompt_scores]
        return list(zip(ids, [None, *listed], strict=True))

    def _choice(
        self,
        number: int,
        text: str,
        scored: list[Scored],
        lists: CompletionLogprobs,
        index: int,
    ) -> TextChoice:
        logprobs = None if self._request.logprobs is None else lists.entries(scored)
        return TextChoice(index=number, text=text, logprobs=logprobs, finish_reason=self._reasons[index])

    def _chunk(self, choice: TextChoice) -> bytes:
        return sse.frame(self._event(choice))

    def _event(self, choice: TextChoice) -> TextCompletion:
        return TextCompletion(**self._head, choices=[choice], usage=chunk_usage(self._request, self._usage))

    def _text_frame(self, index: int, text: str) -> bytes:
        """The chunk of a choice that adds `text` and nothing else."""
        frames = self._text_frames.get(index)
        if frames is None:
            frames = sse.TextFrames(
                lambda text: self._event(TextChoice(index=index, text=text, logprobs=None, finish_reason=None))
            )
            self._text_frames[index] = frames
        return frames.frame(text)

    def _usage(self) -> Usage:
        per_prompt = self._completion.num_candidates
        shown = self._generations if self._completion.max_tokens else []
        return usage_of(self._generations[::per_prompt], shown)
