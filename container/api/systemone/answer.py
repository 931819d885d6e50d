"""One request to /v1/systemone from its body to its answer."""

from __future__ import annotations

from typing import Any

from flask import Response

from container.api.decisions.confidence import choice_confidence, expected_level, score_confidence
from container.api.decisions.decision import decide
from container.api.systemone import answer_types as types
from container.api.systemone.request import (
    AnyQuestion,
    LevelsQuestion,
    NoulQuestion,
    content_text,
    parse_systemone,
    question_of,
)
from container.monitoring.request_record import RequestRecord
from container.serving.served_model import answered_model
from container.serving.service import service
from container.web.responses import json_response


def answer_systemone(body: dict[str, Any], record: RequestRecord) -> Response:
    """Parse, admit, render, read the labels' probabilities. Raises ServiceError."""
    served = service().model
    service().check_room()
    request = parse_systemone(body, service().settings)
    questions = [question_of(each) for each in request.questions.values()]
    decision = decide(content_text(request.state), questions, served, record, param="state")
    asked = zip(request.questions.items(), decision.probabilities, strict=True)
    answer = types.SystemOneAnswers(
        model=answered_model(served, request.model),
        answers={name: _answer(question, probabilities) for (name, question), probabilities in asked},
        usage=types.SystemOneUsage(input_tokens=decision.num_input_tokens, output_tokens=decision.num_output_tokens),
    )
    return decision.with_headers(json_response(answer), record)


def _answer(asked: AnyQuestion, probabilities: list[float]) -> types.SystemOneAnswer:
    if isinstance(asked, NoulQuestion):
        return types.NoulAnswer(noul=probabilities[0])
    if isinstance(asked, LevelsQuestion):
        keys = [str(level) for level in range(len(probabilities))]
        return types.LevelsAnswer(
            score=expected_level(probabilities),
            confidence=score_confidence(probabilities),
            legend=dict(zip(keys, asked.criteria, strict=True)),
            probabilities=dict(zip(keys, probabilities, strict=True)),
        )
    found = dict(zip(asked.criteria, probabilities, strict=True))
    return types.CriteriaAnswer(
        choice=max(found, key=found.__getitem__),
        confidence=choice_confidence(probabilities),
        probabilities=found,
    )
