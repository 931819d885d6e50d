"""Questions about one text, answered by the probabilities of their labels: no text is generated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flask import Response, request

from container.api.answer_headers import add_compute_time, add_stream_headers, add_whole_headers
from container.api.decisions.answer_place import AnswerPlace, Labels, place_in
from container.api.decisions.label_tree import Read
from container.api.decisions.question import Question
from container.api.decisions.question_text import question_text
from container.errors import DeadlineExceeded, GenerationFailed
from container.generation.fan_out import fan_out
from container.generation.generation import Generation, Prompt, Token
from container.monitoring.request_record import RequestRecord, timed
from container.serving.served_model import ServedModel
from container.serving.service import service
from container.text.offload import encode_prompt

# Sequences of one request in flight: enough to fill a step, and room for other requests.
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Decision:
    """The probabilities of each question's options, and what was run for them."""

    probabilities: list[list[float]]
    generations: list[Generation]
    num_chars: int

    @property
    def num_input_tokens(self) -> int:
        """Tokens of all prompts that were run; the shared text counts in each of them."""
        return sum(len(each.prompt.token_ids) for each in self.generations)

    @property
    def num_cached_tokens(self) -> int:
        """Those of them that the prefix cache had."""
        return sum(each.num_cached_tokens for each in self.generations)

    @property
    def num_output_tokens(self) -> int:
        """One for each prompt that was run."""
        return sum(each.num_tokens for each in self.generations)

    def with_headers(self, response: Response, record: RequestRecord) -> Response:
        """`response` with the headers of a whole answer."""
        add_whole_headers(response, record, self.generations, self.generations)
        add_compute_time(response, record)
        add_stream_headers(response, service().settings, service().model, self.num_chars)
        return response


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question's prompt without the tokens that labels replace."""

    token_ids: list[int]
    labels: Labels
    num_chars: int


def decide(state: str, questions: Sequence[Question], served: ServedModel, record: RequestRecord) -> Decision:
    """Answer the questions of an admissible request. Raises ServiceError.

    The first prompt runs alone: the others then find the text in the prefix cache.
    """
    service().admit(min(len(questions), _AT_ONCE))
    place = place_in(served)
    asked = [_ask(place, state, question, served) for question in questions]
    reads = [(index, read) for index, each in enumerate(asked) for read in each.labels.tree.reads]
    generations: list[Generation] = []
    found: list[dict[Read, Token]] = [{} for _ in asked]
    for group in _groups(reads):
        started = [_begin(asked[index], read, record) for index, read in group]
        generations += started
        for (index, read), token in zip(group, _tokens(started), strict=True):
            found[index][read] = token
    try:
        probabilities = [each.labels.tree.probabilities(tokens) for each, tokens in zip(asked, found, strict=True)]
    except ValueError as exc:
        raise GenerationFailed("the model's output for a question is not a number") from exc
    return Decision(probabilities, generations, sum(each.num_chars for each in asked))


def _ask(place: AnswerPlace, state: str, question: Question, served: ServedModel) -> _Asked:
    labels = place.labels(question.kind, len(question.options))
    with timed("template"):
        prompt = place.prompt(question_text(state, question, labels.texts))
    with timed("tokenise"):
        token_ids = encode_prompt(served.tokenizer, prompt)
        labels = place.as_in(prompt, token_ids, labels)
    served.check_length(len(token_ids) + labels.tree.depth, 1)
    return _Asked(token_ids[: len(token_ids) - labels.num_replaced], labels, len(prompt.text))


def _groups(reads: Sequence[tuple[int, Read]]) -> Iterator[Sequence[tuple[int, Read]]]:
    yield from (reads[:1],) if reads else ()
    for first in range(1, len(reads), _AT_ONCE):
        yield reads[first : first + _AT_ONCE]


def _begin(asked: _Asked, read: Read, record: RequestRecord) -> Generation:
    timeout_s = service().timeout_s(record, streaming=False)
    prompt = Prompt(token_ids=[*asked.token_ids, *read.path], sampling=read.sampling, timeout_s=timeout_s)
    return service().generate(prompt, request, record)


def _tokens(generations: Sequence[Generation]) -> list[Token]:
    """The one token of each. Raises DeadlineExceeded if one has none: an answer lacks no question."""
    found: dict[int, Token] = {}
    for index, delta in fan_out(generations):
        if delta is not None and delta.tokens:
            found[index] = delta.tokens[0]
    if len(found) < len(generations):
        raise DeadlineExceeded("the request's time was used up before it finished")
    return [found[index] for index in range(len(generations))]
