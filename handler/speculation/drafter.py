"""`NgramDrafter`: drafts for the sequences of a step, as long as they pay. Pure Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from handler.scheduling.sequence import Sequence
from handler.speculation.acceptance import Acceptance
from handler.speculation.draft_lengths import Guesses, best_lengths
from handler.speculation.ngram import NgramLookup
from handler.speculation.step_times import StepTimes


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
        most = [min(self.num_tokens, each) for each in max_tokens]
        guesses = self._guesses(seqs, most, budget)
        lengths = best_lengths(guesses, budget, self._times).lengths
        return [tuple(each.tokens[:length]) for each, length in zip(guesses, lengths, strict=True)]

    def observe(self, num_rows: int, seconds: float) -> None:
        """As `Drafter.observe`."""
        self._times.observe(num_rows, seconds)

    def forget(self, seq: Sequence) -> None:
        """As `Drafter.forget`: all that is known is in `seq.lookup`."""

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """As `Drafter.check_integrity`: nothing is held beside what sequences hold."""

    def _guesses(self, seqs: list[Sequence], most: list[int], budget: int) -> list[Guesses]:
        """What may follow each of `seqs`: `most[i]` tokens, and of all together `budget`, if more are of no use."""
        del budget
        return [self._looked_up(seq, each) for seq, each in zip(seqs, most, strict=True)]

    def _looked_up(self, seq: Sequence, most: int) -> Guesses:
        """What followed at the place that the text fits; nothing if there is none."""
        if seq.lookup is None:
            seq.lookup = _Knowledge(Acceptance(self._acceptance))
        known: _Knowledge = seq.lookup
        known.take_in(seq.token_ids)
        if known.ngrams.guess(seq.token_ids) is None:
            return Guesses()
        chances = known.acceptance.shares(known.ngrams.length, most)
        return Guesses(known.ngrams.draft(seq.token_ids, len(chances)), chances)
