"""`best_plan`: for which sequences a draft model guesses, and how many tokens, by what that costs. Pure Python.

A plan is worth the tokens a second that the step promises with it. A text that the model has not read yet costs time
once; that is shared out over the steps for which the sequence is likely to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from handler.speculation.draft_lengths import MARGIN, Lengths

# An answer is taken to become twice as long as it is, and so much longer, in tokens.
_LONGER = 32


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sequence that the model could guess, at `index` of the step's.

    `share` is the chance of a guess to be right, `most` the longest draft, `num_unread` what the model must read before
    the first guess, `num_left` how many tokens may still come and `num_output` how many have.
    """

    index: int
    share: float
    most: int
    num_unread: int
    num_left: int
    num_output: int


@dataclass(frozen=True, slots=True)
class Costs:
    """What things take, in seconds: `step(rows)` of the engine, `model_pass(rows)` of the draft model, and `read_s` for
    each token of a longer text that it reads.
    """

    step: Callable[[int], float]
    model_pass: Callable[[int], float]
    read_s: float

    def reading(self, one: Candidate) -> float:
        """The seconds until the model can guess; a token takes no longer than a step."""
        return (one.num_unread - 1) * min(self.read_s, self.step(1))

    def trial(self, one: Candidate) -> float:
        """The seconds of one guess of it; a pass takes no longer than a step. A first one may have seemed to."""
        return self.reading(one) + min(self.model_pass(1), self.step(1))

    def least_chance(self, plan: Plan, num_active: int) -> float:
        """The chance from which a further guess of each of `num_active` sequences is worth a pass of the model."""
        return plan.speed * self.model_pass(num_active) / max(1, num_active)


@dataclass(frozen=True, slots=True)
class Plan:
    """`chosen` get drafts of up to `depth` tokens from the model; 0: nothing pays. `speed` is in tokens a second."""

    speed: float
    depth: int = 0
    chosen: list[Candidate] = field(default_factory=list)


def best_plan(candidates: list[Candidate], without: Lengths, budget: int, costs: Costs) -> Plan:
    """The plan that promises the most, if clearly more than the step `without` the model.

    `candidates` are sorted, the likeliest first. Drafts have at most `budget` tokens together.
    """
    best = Plan(without.expected / costs.step(without.num_rows))
    least = MARGIN * best.speed
    for num in _sizes(len(candidates)):
        chosen = candidates[:num]
        deepest = min(max(one.most for one in chosen), budget // num)
        for depth, speed in enumerate(_speeds(chosen, deepest, without, costs), 1):
            if speed > least:
                best, least = Plan(best.speed, depth, chosen), speed
    return best


def _speeds(chosen: list[Candidate], deepest: int, without: Lengths, costs: Costs) -> Iterator[float]:
    """Tokens a second with drafts of 1, 2 and so on tokens, up to where one more costs more than it brings."""
    # What the text tells of the chosen is left out: it is worth less.
    rows = without.num_rows - sum(without.lengths[one.index] for one in chosen)
    expected = without.expected - sum(without.gains[one.index] for one in chosen)
    pass_s, speed = costs.model_pass(len(chosen)), without.expected / costs.step(without.num_rows)
    chances, gains, model_s = [1.0] * len(chosen), [0.0] * len(chosen), 0.0
    for depth in range(1, deepest + 1):
        for i, one in enumerate(chosen):
            chances[i] *= one.share if depth <= one.most else 0.0
            gains[i] += chances[i]
        if sum(chances) <= speed * pass_s:
            return
        model_s += pass_s
        rows += sum(depth <= one.most for one in chosen)
        reading_s = sum(_spread(one, gain, costs) for one, gain in zip(chosen, gains, strict=True))
        yield (expected + sum(gains)) / (costs.step(rows) + model_s + reading_s)


def _sizes(most: int) -> list[int]:
    """1, 2, 4 and so on, and `most`."""
    return [*(1 << i for i in range(most.bit_length()) if 1 << i < most), most]


def _spread(one: Candidate, expected: float, costs: Costs) -> float:
    """A step's share of the seconds that reading takes."""
    num_tokens = min(one.num_left, one.num_output + _LONGER)
    return costs.reading(one) * min(1.0, (1 + expected) / max(1, num_tokens))
