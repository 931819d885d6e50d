"""Requests whose answers are guessed: a drafter that knows them, and what must not change."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from handler.scheduling.sequence import Sequence
from handler.seam.protocol import Grammar, GrammarKind, ThinkingLimit
from tests.support.local_engine import LocalEngine, Outcome
from tests.support.schedules import Wish, alone, differs, draw, play

_GRAMMARS = (
    Grammar(GrammarKind.REGEX, "[a-c]{3,9}(xy)+"),
    Grammar(GrammarKind.JSON_SCHEMA, '{"type": "array", "items": {"enum": ["aa", "bb", 17]}, "minItems": 2}'),
)


class Oracle:
    """Drafts the answers that are known, with a wrong token here and there."""

    def __init__(self, seed: int) -> None:
        self.answers: dict[int, list[int]] = {}
        self.num_proposed = self.num_steps = 0
        self._random = random.Random(seed)

    def propose(self, seqs: list[Sequence], max_tokens: list[int], budget: int) -> list[tuple[int, ...]]:
        drafts = []
        for seq, most in zip(seqs, max_tokens, strict=True):
            draft = self._draft(seq, min(most, budget))
            budget -= len(draft)
            drafts.append(draft)
        self.num_proposed += sum(map(len, drafts))
        return drafts

    def _draft(self, seq: Sequence, most: int) -> tuple[int, ...]:
        known = self.answers.get(seq.sampling.seed, [])[seq.num_output_tokens :]
        draft = [*known, 1, 2, 3][: min(most, self._random.randrange(7))]
        return tuple(token if self._random.random() < 0.85 else self._random.randrange(250) for token in draft)

    def observe(self, num_rows: int, seconds: float) -> None:
        self.num_steps += 1

    def forget(self, seq: Sequence) -> None:
        pass

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        pass


def wishes_of(seed: int) -> list[Wish]:
    """A random schedule in which some requests have a grammar or a limit of thought; longer answers than usual."""
    rng = random.Random(seed)
    found = []
    for wish in draw(seed):
        sampling = wish.sampling | {"max_tokens": rng.randrange(1, 30)}
        if rng.random() < 0.25:
            sampling["grammar"] = rng.choice(_GRAMMARS)
            sampling.pop("bad_words", None)
        elif rng.random() < 0.2:
            sampling["thinking"] = ThinkingLimit(4, (), (99,), (7, 8, 9))
        elif rng.random() < 0.1:
            sampling["watermark"] = (0.5, 2.0)
        found.append(replace(wish, sampling=sampling))
    return found


def differences(guessing: LocalEngine, drafter: Oracle | None, solo: LocalEngine, seed: int) -> list[str]:
    """Play a schedule while its answers are guessed; what differs from each request alone, a line each.

    Without an oracle, the engine's own drafter guesses.
    """
    wishes = wishes_of(seed)
    expected = [alone(solo, wish) for wish in wishes]
    if drafter is not None:
        drafter.answers = {
            wish.sampling["seed"]: outcome.token_ids for wish, outcome in zip(wishes, expected, strict=True)
        }
    play(guessing, wishes)
    is_exact = guessing.core.runner.name == "slots"
    both = [(wish, outcome) for wish, outcome in zip(wishes, expected, strict=True) if _differ(wish, outcome, is_exact)]
    return [f"schedule {seed}: {wish.sampling} got {wish.outcome}, not {outcome}" for wish, outcome in both]


def _differ(wish: Wish, outcome: Outcome, is_exact: bool) -> bool:
    got = wish.outcome
    assert got is not None
    if got.error is not None and outcome.error is not None:
        # Both chose the same tokens before the grammar, the penalties and the rest left none.
        return comparable(replace(got, logprobs=[])) != comparable(replace(outcome, logprobs=[]))
    if not is_exact:
        # torch's float32 product rounds by the number of rows (decision 0007), with guesses and without.
        return differs(wish, outcome) is not None
    if wish.leaves is not None and not got.done:
        num_tokens, num_scored = len(got.token_ids), len(got.logprobs)
        return (got.token_ids, got.logprobs) != (outcome.token_ids[:num_tokens], outcome.logprobs[:num_scored])
    return comparable(got) != comparable(outcome)


def comparable(outcome: Outcome) -> object:
    """All of an outcome that must be the same to the bit."""
    error = None if outcome.error is None else (outcome.error.code, outcome.error.message)
    return outcome.token_ids, outcome.logprobs, outcome.prompt_logprobs, outcome.finish_reason, error
