"""Confidence as System One's servers define it (transformers 5.24, SGLang 0.5.23)."""

from __future__ import annotations

import pytest

from container.api.decisions.confidence import choice_confidence, expected_level, score_confidence


@pytest.mark.parametrize(
    ("probabilities", "confidence"),
    [
        ([0.5, 0.5], 0.0),
        ([1.0, 0.0], 1.0),
        ([0.75, 0.25], 0.5),
        ([0.25] * 4, 0.0),
        ([0.1, 0.7, 0.1, 0.1], 0.6),
        ([1.0], 1.0),
    ],
)
def test_a_choice(probabilities: list[float], confidence: float) -> None:
    assert choice_confidence(probabilities) == pytest.approx(confidence, abs=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "score", "confidence"),
    [
        ([1.0], 0.0, 1.0),
        ([0.0, 1.0, 0.0], 1.0, 1.0),
        # Mean distance of even levels from the middle: 2/3. Expected distance from the likeliest level: 0.2.
        ([0.1, 0.8, 0.1], 1.0, 0.7),
        # The likeliest level is at an end: 0.3 + 2 * 0.2.
        ([0.5, 0.3, 0.2], 0.7, 0.0),
        ([0.8, 0.2], 0.2, 0.6),
        ([0.5, 0.0, 0.5], 1.0, 0.0),
        ([0.25] * 4, 1.5, 0.0),
    ],
)
def test_a_score(probabilities: list[float], score: float, confidence: float) -> None:
    assert expected_level(probabilities) == pytest.approx(score, abs=1e-12)
    assert score_confidence(probabilities) == pytest.approx(confidence, abs=1e-12)
