"""`NgramDrafter`: drafts for the sequences of a step, as long as they pay. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass, field

from handler.scheduling.sequence import Sequence
from handler.speculation.acceptance import Acceptance
from handler.speculation.ngram import NgramLookup
from handler.speculation.step_times import StepTimes

# A draft must promise so much more speed: both estimates are rough.
_MARGIN = 1.08


@dataclass(slots=True)
class _Knowledge:
    """What the drafter knows of a sequence, as `Sequence.lookup`."""

    acceptance: Acceptance
    ngrams: NgramLookup = field(default_factory=NgramLookup)

    def take_in(self, text: list[int]) -> None:
        """Learn the tokens that have come since the last call: each tests the guess of it."""
        ngrams = self.ngrams
        if not ngrams.num_seen:
            ngrams.skip(text)
        while ngrams.num_seen < len(text):
            guess, length = ngrams.guess(text), ngrams.length
            if guess is not None:
                self.acceptance.observe(length, guess == text[ngrams.num_seen])
            ngrams.push(text)


class NgramDrafter:
    """`Drafter` by prompt lookup. Times and texts decide how long a draft is; neither changes what is answered."""

    def __init__(self, num_tokens: int, max_rows: int = 0) -> None:
        """`num_tokens` is the longest draft of a sequence. A step with drafts has at most `max_rows` rows; 0: any."""
        self.num_tokens = num_tokens
        self.max_rows = max_rows
        self._times = StepTimes()
        self._acceptance = Acceptance()

    def propose(self, seqs: list[Sequence], max_tokens: list[int], budget: int) -> list[tuple[int, ...]]:
        """As `Drafter.propose`: the drafts with which the step promises the most tokens a second."""
        if self.max_rows:
            budget = max(0, min(budget, self.max_rows - len(seqs)))
        chances = [self._chances(seq, most) for seq, most in zip(seqs, max_tokens, strict=True)]
        lengths = self._best_lengths(chances, budget)
        return [self._draft(seq, length) if length else () for seq, length in zip(seqs, lengths, strict=True)]

    def observe(self, num_rows: int, seconds: float) -> None:
        """As `Drafter.observe`."""
        self._times.observe(num_rows, seconds)

    def _chances(self, seq: Sequence, most: int) -> list[float]:
        """The chance of each token of the longest draft to be accepted; none if nothing can be guessed."""
        if seq.lookup is None:
            seq.lookup = _Knowledge(Acceptance(self._acceptance))
        known: _Knowledge = seq.lookup
        known.take_in(seq.token_ids)
        if known.ngrams.guess(seq.token_ids) is None:
            return []
        return known.acceptance.shares(known.ngrams.length, min(most, self.num_tokens))

    @staticmethod
    def _draft(seq: Sequence, length: int) -> tuple[int, ...]:
        known: _Knowledge = seq.lookup
        return tuple(known.ngrams.draft(seq.token_ids, length))

    def _best_lengths(self, chances: list[list[float]], budget: int) -> list[int]:
        """How many tokens of each draft: the likeliest of all, as many as make the step most worth its time."""
        lengths = [0] * len(chances)
        ranked = sorted(((chance, i) for i, row in enumerate(chances) for chance in row), reverse=True)[:budget]
        seconds = self._times.estimate(len(chances)) if ranked else 0.0
        if not seconds:
            return lengths
        expected = float(len(chances))
        best, num_best = _MARGIN * expected / seconds, 0
        for num, (chance, _) in enumerate(ranked, 1):
            expected += chance
            speed = expected / self._times.estimate(len(chances) + num)
            if speed > best:
                best, num_best = speed, num
        for _, i in ranked[:num_best]:
            lengths[i] += 1
        return lengths
