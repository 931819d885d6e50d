"""One request to /v1/decisions from its body to its answer."""

from __future__ import annotations

from typing import Any

from flask import Response
from msgspec import UNSET

from container.api.decisions import answer_types as types
from container.api.decisions.confidence import choice_confidence, expected_level, score_confidence
from container.api.decisions.decision import Decision, decide
from container.api.decisions.items import input_text
from container.api.decisions.request import (
    AnyQuestion,
    PredicateQuestion,
    ScoreQuestion,
    parse_decision,
    question_of,
)
from container.monitoring.request_record import RequestRecord
from container.serving.served_model import answered_model
from container.serving.service import service
from container.web.responses import json_response


def answer_decision(body: dict[str, Any], record: RequestRecord) -> Response:
    """Parse, admit, render, read the labels' probabilities. Raises ServiceError."""
    served = service().model
    service().check_room()
    request = parse_decision(body, service().settings)
    questions = [question_of(each) for each in request.questions]
    decision = decide(input_text(request.input), questions, served, record, param="input")
    answers = [_answer(*each) for each in zip(request.questions, decision.probabilities, strict=True)]
    model = answered_model(served, request.model)
    answer = types.DecisionObject(model=model, answers=answers, usage=_usage(decision))
    return decision.with_headers(json_response(answer), record)


def _answer(asked: AnyQuestion, probabilities: list[float]) -> types.DecisionAnswer:
    name = None if asked.name is UNSET else asked.name
    if isinstance(asked, PredicateQuestion):
        return types.PredicateAnswer(name=name, probability=probabilities[0])
    if isinstance(asked, ScoreQuestion):
        levels = zip(asked.levels, probabilities, strict=True)
        return types.ScoreAnswer(
            name=name,
            score=expected_level(probabilities),
            probabilities=[types.LevelProbability(i, level.label, p) for i, (level, p) in enumerate(levels)],
            confidence=score_confidence(probabilities),
        )
    likeliest = max(range(len(probabilities)), key=probabilities.__getitem__)
    choices = zip(asked.choices, probabilities, strict=True)
    return types.ChoiceAnswer(
        name=name,
        choice=asked.choices[likeliest].value,
        probabilities=[types.ChoiceProbability(choice.value, p) for choice, p in choices],
        confidence=choice_confidence(probabilities),
    )


def _usage(decision: Decision) -> types.DecisionUsage:
    return types.DecisionUsage(
        input_tokens=decision.num_input_tokens,
        input_tokens_details=types.DecisionInputDetails(cached_tokens=decision.num_cached_tokens),
        output_tokens=decision.num_output_tokens,
        output_tokens_details=types.DecisionOutputDetails(),
        total_tokens=decision.num_input_tokens + decision.num_output_tokens,
    )
