"""The deltas of one generation, accumulated into TGI's answer."""

from __future__ import annotations

from msgspec import UNSET

from container.api.tgi.answer_types import AnswerToken, BestOfSequence, Details, FinishName, PrefillToken, StreamDetails
from container.errors import IncompleteGeneration
from container.generation.generation import Delta, Generation, Token
from container.text.tokenizer import Tokenizer
from handler.seam.protocol import FinishReason

_FINISH: dict[FinishReason, FinishName] = {
    FinishReason.EOS: "eos_token",
    FinishReason.STOP_TOKEN: "eos_token",
    FinishReason.STOP_STRING: "stop_sequence",
    FinishReason.LENGTH: "length",
}


class AnswerFold:
    """Text, tokens and finish reason of one generation. `prefix` precedes the text (`return_full_text`)."""

    def __init__(self, generation: Generation, tokenizer: Tokenizer, prefix: str) -> None:
        self.generation = generation
        self.tokens: list[AnswerToken] = []
        self.top_tokens: list[list[AnswerToken]] = []
        self.finished = False
        self._tokenizer = tokenizer
        self._text = [prefix]
        self._reason: FinishReason | None = None

    def add(self, delta: Delta) -> list[AnswerToken]:
        """Add one delta and return its tokens as TGI shows them."""
        new = [self._answer_token(token) for token in delta.tokens]
        self._text.append(delta.text)
        self.tokens += new
        if self.generation.prompt.sampling.num_logprobs:
            self.top_tokens += [self._top(token) for token in delta.tokens]
        self._reason = delta.finish_reason
        self.finished = delta.finish_reason is not None
        return new

    @property
    def text(self) -> str:
        """The text so far, with the prefix."""
        return "".join(self._text)

    @property
    def closing_token(self) -> AnswerToken:
        """An event needs a token: an empty special one, which clients skip, ends a stream whose time ran out."""
        return AnswerToken(self.tokens[-1].id, "", 0.0, special=True)

    @property
    def mean_logprob(self) -> float:
        """TGI's score for choosing the best of several answers."""
        return sum(token.logprob for token in self.tokens) / max(1, len(self.tokens))

    @property
    def finish_reason(self) -> FinishName:
        """TGI checks the number of tokens first, then the end token, then stop strings.

        Raises IncompleteGeneration.
        """
        if self._reason not in _FINISH:
            raise IncompleteGeneration
        if self.generation.num_tokens >= self.generation.prompt.sampling.max_tokens:
            return "length"
        return _FINISH[self._reason]

    @property
    def seed(self) -> int | None:
        """The seed that reproduces this answer; None if nothing was sampled."""
        sampling = self.generation.prompt.sampling
        return None if sampling.greedy else sampling.seed

    def details(self, losers: list[AnswerFold]) -> Details:
        """The details, with those of the `losers` of `best_of`. Optional lists are absent when empty."""
        return Details(
            finish_reason=self.finish_reason,
            generated_tokens=self.generation.num_tokens,
            seed=self.seed,
            prefill=self._prefill(),
            tokens=self.tokens,
            best_of_sequences=[loser._sequence() for loser in losers] or UNSET,
            top_tokens=self.top_tokens or UNSET,
        )

    def stream_details(self) -> StreamDetails:
        """The details in the last event of a stream."""
        return StreamDetails(
            finish_reason=self.finish_reason,
            generated_tokens=self.generation.num_tokens,
            seed=self.seed,
            input_length=len(self.generation.prompt.token_ids),
        )

    def _sequence(self) -> BestOfSequence:
        details = self.details([])
        return BestOfSequence(
            generated_text=self.text,
            finish_reason=details.finish_reason,
            generated_tokens=details.generated_tokens,
            seed=details.seed,
            prefill=details.prefill,
            tokens=details.tokens,
            top_tokens=details.top_tokens,
        )

    def _prefill(self) -> list[PrefillToken]:
        prompt = self.generation.prompt
        if prompt.sampling.num_prompt_logprobs is None:
            return []
        logprobs = [None, *(known.logprob for known in self.generation.prompt_logprobs or ())]
        logprobs += [None] * (len(prompt.token_ids) - len(logprobs))
        return [
            PrefillToken(token_id, self._spell(token_id), logprob)
            for token_id, logprob in zip(prompt.token_ids, logprobs, strict=False)
        ]

    def _answer_token(self, token: Token) -> AnswerToken:
        return AnswerToken(token.id, token.text, token.logprob.logprob if token.logprob else 0.0, token.special)

    def _top(self, token: Token) -> list[AnswerToken]:
        return [
            AnswerToken(token_id, self._spell(token_id), logprob, self._tokenizer.is_special(token_id))
            for token_id, logprob in (token.logprob.top if token.logprob else ())
        ]

    def _spell(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special_tokens=False)
