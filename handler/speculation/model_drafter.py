"""`ModelDrafter`: drafts of a small model where they pay more than what the text itself tells. Pure Python.

What the model costs is measured like what verifying costs. Where its drafts do not pay, it does not run at all, but for
a small share of the time in which it is tried again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from handler.scheduling.sequence import Sequence
from handler.speculation.draft_lengths import Guesses, best_lengths
from handler.speculation.draft_plan import Candidate, Costs, Plan, best_plan
from handler.speculation.drafter import NgramDrafter
from handler.speculation.shares import Shares
from handler.speculation.step_times import StepTimes

# Probabilities that the model gives its token from which a class begins; shares of right guesses until texts say more.
_CLASSES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
_FIRST = (0.2, 0.3, 0.5, 0.65, 0.8, 0.9, 0.95)
# One more class: any token, before the model has run.
_ANY, _FIRST_OF_ANY = len(_CLASSES), 0.7
# What is expected of an unknown model counts as so many guesses: each one that fails has cost a pass.
_PRIOR = 5.0
# Share of the time in which a model whose drafts do not pay is tried, and the most that is saved up, in steps.
_TRIED, _SAVED_STEPS = 0.01, 50


@dataclass(frozen=True, slots=True)
class Guess:
    """The token that the model finds likeliest, and the probability that it gives it."""

    token_id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass of the model found for each sequence: None where its text is not read to the end yet, or lost.

    `num_rows` tokens ran as decodes, `num_read` in longer chunks, in `seconds`.
    """

    guesses: list[Guess | None]
    num_rows: int = 0
    num_read: int = 0
    seconds: float = 0.0


class DraftModel(Protocol):
    """A model that guesses (handler.engine.draft_model.DraftRunner). It has keys and values of its own."""

    def num_unread(self, seq: Sequence) -> int | None:
        """Tokens of its text, at least the newest, that a guess needs to have run; None if it cannot be guessed."""

    def guess(self, seqs: list[Sequence], drafts: list[list[int]]) -> Pass:
        """What follows the text of each sequence and then its draft. Reads what is unread, as far as a step may."""

    def forget(self, seq: Sequence) -> None:
        """Free all that is held for `seq`."""

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raise RuntimeError if memory is held for another sequence than those `running`."""


@dataclass(slots=True)
class _Record:
    """Shares of right guesses in one sequence, and those that are not tested yet, with their classes."""

    shares: Shares
    untested: list[tuple[int, int]] = field(default_factory=list)
    num_seen: int = 0

    def take_in(self, text: list[int]) -> None:
        """Learn from the tokens that have come: each tests a guess, up to the first that is wrong."""
        for token_id in text[self.num_seen :]:
            if not self.untested:
                break
            guess, at = self.untested.pop(0)
            self.shares.observe(at, guess == token_id)
            self.shares.observe(_ANY, guess == token_id)
            if guess != token_id:
                self.untested.clear()
        self.num_seen = len(text)


class ModelDrafter(NgramDrafter):
    """`Drafter` by prompt lookup and by a draft model, for each sequence whichever is likelier."""

    def __init__(self, num_tokens: int, model: DraftModel, max_rows: int = 0) -> None:
        """As `NgramDrafter`."""
        super().__init__(num_tokens, max_rows)
        self._model = model
        self._records: dict[Sequence, _Record] = {}
        self._shares = Shares((*_FIRST, _FIRST_OF_ANY), engine_prior=_PRIOR)
        self._pass_times = StepTimes()
        # Seconds of a token of a longer chunk; 0 until one was read, so that it is tried.
        self._read_s = 0.0
        # Seconds of the last `propose` in which the model ran, and those left to try it where it does not pay.
        self._run_s = self._spare_s = 0.0

    def observe(self, num_rows: int, seconds: float) -> None:
        """As `Drafter.observe`; the model's part of the step is counted apart."""
        own_s = max(0.0, seconds - self._run_s)
        self._run_s = 0.0
        super().observe(num_rows, own_s)
        self._spare_s = min(self._spare_s + _TRIED * own_s, _SAVED_STEPS * own_s)

    def forget(self, seq: Sequence) -> None:
        """As `Drafter.forget`."""
        super().forget(seq)
        self._records.pop(seq, None)
        self._model.forget(seq)

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """As `Drafter.check_integrity`."""
        self._model.check_integrity(running)

    def _guesses(self, seqs: list[Sequence], most: list[int], budget: int) -> list[Guesses]:
        """What the text tells, or for some sequences what the model does."""
        self._run_s = 0.0
        found = super()._guesses(seqs, most, budget)
        costs = Costs(self._times.estimate, self._pass_times.estimate, self._read_s)
        candidates = self._candidates(seqs, most, found)
        if not candidates or not costs.step(len(seqs)):
            return found
        plan = best_plan(candidates, best_lengths(found, budget, self._times), budget, costs)
        trial = None if plan.depth else self._trial(candidates, costs)
        chosen = plan.chosen if trial is None else [trial]
        for one, drafted in zip(chosen, self._drafted(plan, chosen, seqs, most, costs), strict=True):
            if drafted.chances[:1] > found[one.index].chances[:1]:
                found[one.index] = drafted
        if trial is not None:
            self._spare_s -= self._run_s
        return found

    def _candidates(self, seqs: list[Sequence], most: list[int], looked_up: list[Guesses]) -> list[Candidate]:
        """The sequences that the model may guess, the likeliest first: not where the text tells more."""
        found: list[Candidate] = []
        for index, (seq, each, known) in enumerate(zip(seqs, most, looked_up, strict=True)):
            record = self._record(seq)
            share = record.shares.share(_ANY)
            unread = self._model.num_unread(seq) if each and [share] > known.chances[:1] else None
            if unread is not None:
                left = seq.sampling.max_tokens - seq.num_output_tokens
                found.append(Candidate(index, share, each, unread, left, seq.num_output_tokens))
        return sorted(found, key=lambda one: one.share, reverse=True)

    def _record(self, seq: Sequence) -> _Record:
        record = self._records.get(seq)
        if record is None:
            shares = Shares((*_FIRST, _FIRST_OF_ANY), self._shares)
            record = self._records[seq] = _Record(shares, num_seen=len(seq.token_ids))
        record.take_in(seq.token_ids)
        return record

    def _trial(self, candidates: list[Candidate], costs: Costs) -> Candidate | None:
        """A sequence whose next token the model guesses only to learn how well it does, if that time is saved up."""
        one = min(candidates, key=lambda each: each.num_unread)
        return one if costs.trial(one) <= self._spare_s else None

    def _drafted(
        self, plan: Plan, chosen: list[Candidate], seqs: list[Sequence], most: list[int], costs: Costs
    ) -> list[Guesses]:
        """Let the model guess, token by token, as long as the next one promises more than it costs."""
        found = [Guesses() for _ in chosen]
        active = list(range(len(chosen)))
        for depth in range(1, max(1, plan.depth) + 1):
            active = [i for i in active if depth <= most[chosen[i].index]]
            if depth > 1 and active:
                least = costs.least_chance(plan, len(active))
                active = [i for i in active if found[i].chances[-1] * chosen[i].share >= least]
            if not active:
                break
            ran = self._model.guess([seqs[chosen[i].index] for i in active], [found[i].tokens for i in active])
            self._measure(ran)
            guessed = [(i, guess) for i, guess in zip(active, ran.guesses, strict=True) if guess is not None]
            for i, guess in guessed:
                self._add(seqs[chosen[i].index], found[i], guess)
            active = [i for i, _ in guessed]
        return found

    def _add(self, seq: Sequence, drafted: Guesses, guess: Guess) -> None:
        record, at = self._records[seq], bisect_right(_CLASSES, guess.probability) - 1
        if not drafted.tokens:
            record.untested.clear()
        record.untested.append((guess.token_id, at))
        drafted.tokens.append(guess.token_id)
        drafted.chances.append((drafted.chances[-1] if drafted.chances else 1.0) * record.shares.share(at))

    def _measure(self, ran: Pass) -> None:
        self._run_s += ran.seconds
        if not ran.num_read:
            self._pass_times.observe(ran.num_rows, ran.seconds)
            return
        of_rows = self._pass_times.estimate(ran.num_rows) if ran.num_rows else 0.0
        seconds = max(0.0, ran.seconds - of_rows) / ran.num_read
        # One slow pass, by a neighbour or a kernel's first use, counts for little.
        self._read_s = min(seconds, 0.75 * self._read_s + 0.25 * seconds) if self._read_s else seconds
