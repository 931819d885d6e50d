"""Questions about one text, answered by the probabilities of their labels: no text is generated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from flask import Response, request

from container.api.answer_headers import add_compute_time, add_stream_headers, add_whole_headers
from container.api.decisions.answer_place import AnswerPlace, place_in
from container.api.decisions.label_tree import LabelTree, Read
from container.api.decisions.question import Question
from container.api.decisions.question_text import question_text
from container.errors import ContextLengthExceeded, DeadlineExceeded, GenerationFailed
from container.generation.fan_out import fan_out
from container.generation.generation import ClientDisconnected, Generation, Prompt, Token
from container.monitoring.request_record import RequestRecord, timed
from container.serving.served_model import ServedModel
from container.serving.service import service
from container.text.offload import encode_prompt
from container.web.disconnect import connection_check

# Sequences of one request in flight: enough to fill a step, and room for other requests.
_AT_ONCE = 16
_LATE = "the request's time was used up before it finished"


@dataclass(frozen=True, slots=True)
class Decision:
    """The probabilities of each question's options, and what was run for them."""

    probabilities: list[list[float]]
    generations: list[Generation]
    num_chars: int

    @property
    def num_input_tokens(self) -> int:
        """Tokens of all prompts that were run; the shared text counts in each of them."""
        return sum(each.num_prompt_tokens for each in self.generations)

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


@dataclass(slots=True)
class _Asked:
    """A question's prompt without the tokens that labels replace; once all is read, its probabilities alone."""

    token_ids: list[int]
    tree: LabelTree
    found: dict[Read, Token] = field(default_factory=dict)
    probabilities: list[float] = field(default_factory=list)

    def weigh(self) -> None:
        """Compute the probabilities if all is read. Raises GenerationFailed."""
        if len(self.found) < len(self.tree.reads):
            return
        try:
            self.probabilities = self.tree.probabilities(self.found)
        except ValueError as exc:
            raise GenerationFailed("the model's output for a question is not a number") from exc
        self.token_ids, self.found = [], {}


def decide(
    state: str, questions: Sequence[Question], served: ServedModel, record: RequestRecord, *, param: str
) -> Decision:
    """Answer the questions of an admissible request about its field `param`. Raises ServiceError, ClientDisconnected.

    The first prompt runs alone: the others then find the text in the prefix cache.
    """
    place = place_in(served)
    num_reads = sum(len(place.labels(each.kind, len(each.options)).tree.reads) for each in questions)
    at_once = max(1, min(num_reads, _AT_ONCE))
    service().admit(at_once)
    run = _Run(state, served, record, param)
    reads = run.reads(place, questions)
    size = 1
    while group := list(islice(reads, size)):
        run.read(group)
        size = at_once
    return Decision([each.probabilities for each in run.asked], run.generations, run.num_chars)


class _Run:
    """One request's questions. The prompts of a group are made before it runs and forgotten after it."""

    def __init__(self, state: str, served: ServedModel, record: RequestRecord, param: str) -> None:
        self.asked: list[_Asked] = []
        self.generations: list[Generation] = []
        self.num_chars = 0
        self._state = state
        self._served = served
        self._record = record
        self._param = param
        self._connected = connection_check(request)

    def reads(self, place: AnswerPlace, questions: Sequence[Question]) -> Iterator[tuple[_Asked, Read]]:
        """What is to be read; a question is rendered when its first read is asked for."""
        for question in questions:
            self._check_wanted()
            asked = self._ask(place, question)
            self.asked.append(asked)
            asked.weigh()
            for read in asked.tree.reads:
                yield asked, read

    def read(self, group: Sequence[tuple[_Asked, Read]]) -> None:
        """Run the group at once."""
        started = [self._begin(asked, read) for asked, read in group]
        self.generations += started
        for (asked, read), token in zip(group, _tokens(started), strict=True):
            asked.found[read] = token
            asked.weigh()
        for generation in started:
            generation.forget_prompt()

    def _check_wanted(self) -> None:
        """Raises ClientDisconnected or DeadlineExceeded: 400 prompts may take long to make."""
        if not self._connected():
            raise ClientDisconnected
        if self._record.elapsed_s >= service().settings.request_timeout_s:
            raise DeadlineExceeded(_LATE)

    def _ask(self, place: AnswerPlace, question: Question) -> _Asked:
        labels = place.labels(question.kind, len(question.options))
        with timed("template"):
            prompt = place.prompt(question_text(self._state, question, labels.texts))
        with timed("tokenise"):
            token_ids = encode_prompt(self._served.tokenizer, prompt)
            labels = place.as_in(prompt, token_ids, labels)
        self._check_length(len(token_ids) + labels.tree.depth)
        self.num_chars += len(prompt.text)
        return _Asked(token_ids[: len(token_ids) - labels.num_replaced], labels.tree)

    def _check_length(self, num_tokens: int) -> None:
        """Raises ContextLengthExceeded in the words of the dialect."""
        limit = self._served.max_input_tokens
        if num_tokens > limit:
            raise ContextLengthExceeded(
                f"`{self._param}` together with a question must have at most {limit} tokens. Given: {num_tokens}",
                num_tokens=num_tokens,
                limit=limit,
                param=self._param,
            )

    def _begin(self, asked: _Asked, read: Read) -> Generation:
        timeout_s = service().timeout_s(self._record, streaming=False)
        token_ids = [*asked.token_ids, *read.path]
        return service().generate(
            Prompt(token_ids=token_ids, sampling=read.sampling, timeout_s=timeout_s), request, self._record
        )


def _tokens(generations: Sequence[Generation]) -> list[Token]:
    """The one token of each. Raises DeadlineExceeded if one has none: an answer lacks no question."""
    found: dict[int, Token] = {}
    for index, delta in fan_out(generations):
        if delta is not None and delta.tokens:
            found[index] = delta.tokens[0]
    if len(found) < len(generations):
        raise DeadlineExceeded(_LATE)
    return [found[index] for index in range(len(generations))]
