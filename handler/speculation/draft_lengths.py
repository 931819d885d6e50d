"""How many tokens of each draft a step verifies, so that it promises the most tokens a second. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass, field

from handler.speculation.step_times import StepTimes

# A draft must promise so much more speed: both estimates are rough.
MARGIN = 1.08


@dataclass(slots=True)
class Guesses:
    """What may follow a text, and the chance of each of the `tokens` that it and all before it are right."""

    tokens: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Lengths:
    """Tokens to verify of each draft, and how many of them are likely to be right."""

    lengths: list[int]
    gains: list[float]

    @property
    def num_rows(self) -> int:
        """Rows of the step."""
        return len(self.lengths) + sum(self.lengths)

    @property
    def expected(self) -> float:
        """Tokens that the step is likely to bring."""
        return len(self.lengths) + sum(self.gains)


def best_lengths(guesses: list[Guesses], budget: int, times: StepTimes) -> Lengths:
    """The likeliest tokens of all drafts, as many as make the step most worth its time; at most `budget`."""
    found = Lengths([0] * len(guesses), [0.0] * len(guesses))
    ranked = sorted(((chance, i) for i, row in enumerate(guesses) for chance in row.chances), reverse=True)[:budget]
    seconds = times.estimate(len(guesses)) if ranked else 0.0
    if not seconds:
        return found
    expected = float(len(guesses))
    best, num_best = MARGIN * expected / seconds, 0
    for num, (chance, _) in enumerate(ranked, 1):
        expected += chance
        speed = expected / times.estimate(len(guesses) + num)
        if speed > best:
            best, num_best = speed, num
    for chance, i in ranked[:num_best]:
        found.lengths[i] += 1
        found.gains[i] += chance
    return found
