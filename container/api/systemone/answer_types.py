"""The objects that /v1/systemone answers with, as typesafe-sdk reads them."""

from __future__ import annotations

from typing import Any

import msgspec


class NoulAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="noul"):
    """How likely the answer is yes. There is no confidence: the probability says it."""

    noul: float


class CriteriaAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="choice"):
    """The likeliest option, and all of them."""

    choice: str
    confidence: float
    probabilities: dict[str, float]


class LevelsAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="score"):
    """The expected level, from 0; `legend` repeats the question's levels under the keys of `probabilities`."""

    score: float
    confidence: float
    legend: dict[str, str | dict[str, Any] | list[Any]]
    probabilities: dict[str, float]


SystemOneAnswer = NoulAnswer | CriteriaAnswer | LevelsAnswer


class SystemOneUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of tokens: a prompt for each pass, of which a question takes one where its labels are single tokens."""

    input_tokens: int
    output_tokens: int


class SystemOneAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """The answers under the names of their questions."""

    model: str
    answers: dict[str, SystemOneAnswer]
    usage: SystemOneUsage


class SystemOneFault(msgspec.Struct, frozen=True):
    """One invalid value: where it is, what is wrong, the kind of error."""

    loc: list[str | int]
    msg: str
    type: str


class SystemOneFailure(msgspec.Struct, frozen=True):
    """Any other error."""

    error_type: str
    message: str


class SystemOneError(msgspec.Struct, frozen=True):
    """The body of an error."""

    detail: list[SystemOneFault] | SystemOneFailure
