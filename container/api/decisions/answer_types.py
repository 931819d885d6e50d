"""The objects that /v1/decisions answers with, as openai 3.57 reads them."""

from __future__ import annotations

import msgspec


class _Answer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    name: str | None


class PredicateAnswer(_Answer, frozen=True, kw_only=True, tag="predicate"):
    """How likely the statement is true."""

    probability: float


class ChoiceProbability(msgspec.Struct, frozen=True):
    """How likely one of the values is."""

    value: str | bool
    probability: float


class ChoiceAnswer(_Answer, frozen=True, kw_only=True, tag="choice"):
    """The likeliest value, and all of them in the order of the question."""

    choice: str | bool
    probabilities: list[ChoiceProbability]
    confidence: float


class LevelProbability(msgspec.Struct, frozen=True):
    """How likely a level is; `value` counts from 0."""

    value: int
    label: str
    probability: float


class ScoreAnswer(_Answer, frozen=True, kw_only=True, tag="score"):
    """The expected level, from 0, and all levels in the order of the question."""

    score: float
    probabilities: list[LevelProbability]
    confidence: float


DecisionAnswer = PredicateAnswer | ChoiceAnswer | ScoreAnswer


class DecisionInputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the prompts found in the prefix cache."""

    cached_tokens: int
    cache_write_tokens: int = 0


class DecisionOutputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of thoughts, of which there are none."""

    reasoning_tokens: int = 0


class DecisionUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of tokens: a prompt for each pass, of which a question takes one where its labels are single tokens."""

    input_tokens: int
    input_tokens_details: DecisionInputDetails
    output_tokens: int
    output_tokens_details: DecisionOutputDetails
    total_tokens: int


class DecisionObject(msgspec.Struct, frozen=True, kw_only=True):
    """The answers in the order of the questions."""

    model: str
    answers: list[DecisionAnswer]
    usage: DecisionUsage
