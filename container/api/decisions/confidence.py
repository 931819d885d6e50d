"""How sure an answer is, from 0 for a guess to 1: how far its probabilities are from even ones.

System One's definition, which its servers share (transformers 5.24, SGLang 0.5.23; decision 0130). OpenAI says no more
than that confidence is derived from the distribution and is not the probability of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def choice_confidence(probabilities: Sequence[float]) -> float:
    """(p - 1/n) / (1 - 1/n), where p is the highest of n probabilities; 1 for one option."""
    even = 1 / len(probabilities)
    return 1.0 if even == 1 else _within((max(probabilities) - even) / (1 - even))


def score_confidence(probabilities: Sequence[float]) -> float:
    """1 - d/e: d is the expected distance from the likeliest level, e the mean distance from the middle of the scale.

    1 for one level, and at least 0.
    """
    num_levels = len(probabilities)
    if num_levels == 1:
        return 1.0
    likeliest = max(range(num_levels), key=probabilities.__getitem__)
    distance = math.fsum(p * abs(level - likeliest) for level, p in enumerate(probabilities))
    even = math.fsum(abs(level - (num_levels - 1) / 2) for level in range(num_levels)) / num_levels
    return _within(1 - distance / even)


def expected_level(probabilities: Sequence[float]) -> float:
    """The mean of the levels 0, 1, ..., weighted by their probabilities."""
    return min(math.fsum(level * p for level, p in enumerate(probabilities)), float(len(probabilities) - 1))


def _within(value: float) -> float:
    return min(1.0, max(0.0, value))
