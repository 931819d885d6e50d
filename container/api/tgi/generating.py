"""One TGI request on its way through the engine: checked, tokenized, submitted, collected or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flask import request
from msgspec import UNSET

from container.api.tgi.answer_fold import AnswerFold
from container.api.tgi.answer_types import AnswerToken, GenerateAnswer, StreamEvent
from container.api.tgi.request.generate_request import sampling_params
from container.api.tgi.request.parameter_checks import (
    check_grammar_support,
    check_inputs,
    check_lengths,
    check_parameters,
)
from container.api.tgi.request.parameters import GenerateParameters
from container.errors import IncompleteGeneration
from container.generation.fan_out import fan_out
from container.generation.generation import Prompt
from container.monitoring.request_record import RequestRecord, timed
from container.serving.served_model import ServedModel
from container.serving.service import service
from container.text.offload import encode
from container.web import sse


@dataclass(frozen=True, slots=True)
class Generating:
    """A running request: one `AnswerFold` for each of `best_of`."""

    parameters: GenerateParameters
    folds: list[AnswerFold]

    def best(self) -> tuple[AnswerFold, list[AnswerFold]]:
        """Wait for all answers: the one with the best mean logprob, then the others. Raises ServiceError."""
        collect(self.folds)
        best = max(self.folds, key=lambda fold: fold.mean_logprob)
        return best, [fold for fold in self.folds if fold is not best]

    def frames(self) -> Iterator[bytes]:
        """One event for each token, from index 1. No [DONE]. Raises ServiceError."""
        (fold,) = self.folds
        deltas = fold.generation.deltas()
        index = 0
        try:
            for delta in deltas:
                if delta is None:
                    yield sse.KEEPALIVE
                    continue
                new = fold.add(delta)
                for i, token in enumerate(new):
                    index += 1
                    yield self._event(index, token, fold, i - len(new), last=fold.finished and i == len(new) - 1)
                if fold.finished and not new:
                    if not fold.generation.timed_out:
                        raise IncompleteGeneration
                    yield self._event(index + 1, fold.closing_token, fold, 0, last=True)
        finally:
            deltas.close()  # type: ignore[attr-defined]

    def _event(self, index: int, token: AnswerToken, fold: AnswerFold, from_end: int, *, last: bool) -> bytes:
        """`from_end` is the token's index from the end of the fold: -1 is the newest, 0 is none of them."""
        event = StreamEvent(
            index=index,
            token=token,
            top_tokens=fold.top_tokens[from_end] if fold.top_tokens and from_end else UNSET,
            generated_text=fold.text if last else None,
            details=fold.stream_details() if last and self.parameters.details else None,
        )
        return sse.frame(event)


def collect(folds: list[AnswerFold]) -> None:
    """Run all to their end, together; the first failure ends the others. Raises ServiceError."""
    for index, delta in fan_out([fold.generation for fold in folds]):
        if delta is not None:
            folds[index].add(delta)


def start(
    inputs: str,
    parameters: GenerateParameters,
    served: ServedModel,
    record: RequestRecord,
    *,
    streaming: bool,
    prefix: str,
    adapter: str | None = None,
) -> Generating:
    """Check and tokenize `inputs` in TGI's order. Nothing runs until an answer is asked for. Raises ServiceError.

    `adapter` is as in `start_tokens`.
    """
    settings = service().settings
    check_parameters(parameters, settings)
    check_inputs(inputs, parameters, served)
    with timed("tokenise"):
        token_ids = encode(served.tokenizer, inputs)
    if parameters.truncate is not None:
        token_ids = token_ids[-parameters.truncate :]
    max_tokens = check_lengths(len(token_ids), parameters, served)
    check_grammar_support(parameters, settings)
    return start_tokens(
        token_ids, parameters, served, record, max_tokens, streaming=streaming, prefix=prefix, adapter=adapter
    )


def start_tokens(
    token_ids: list[int],
    parameters: GenerateParameters,
    served: ServedModel,
    record: RequestRecord,
    max_tokens: int,
    *,
    streaming: bool,
    prefix: str,
    adapter: str | None = None,
) -> Generating:
    """The answers to a tokenized prompt, each with its own seed.

    `adapter` is that of the prompt, "" the base model; None is the request's.
    """
    folds = []
    for _ in range(parameters.num_sequences):
        prompt = Prompt(
            token_ids=token_ids,
            sampling=sampling_params(parameters, max_tokens, service().settings),
            stop=tuple(parameters.stop),
            keep_stop=True,
            show_tokens=True,
            timeout_s=service().timeout_s(record, streaming=streaming),
            adapter=adapter,
        )
        folds.append(AnswerFold(service().generate(prompt, request, record), served.tokenizer, prefix))
    return Generating(parameters, folds)


def whole_answer(best: AnswerFold, losers: list[AnswerFold], parameters: GenerateParameters) -> GenerateAnswer:
    """The best answer, with details if the request asked for them or for the prompt's tokens."""
    wanted = parameters.details or parameters.decoder_input_details
    return GenerateAnswer(generated_text=best.text, details=best.details(losers) if wanted else UNSET)
