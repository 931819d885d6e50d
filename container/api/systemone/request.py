"""The body of POST /v1/systemone, valid by construction."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from container.api.decisions.items import compact
from container.api.decisions.question import Option, Question
from container.api.decisions.request import MAX_CHOICES, MAX_LEVELS, MAX_QUESTIONS, NOT_DONE
from container.api.openai.field_rules import Ignored, NotDone, Rules
from container.api.openai.foreign_fields import read
from container.settings import Settings

# JSON that is no string is read as compact text.
Content = str | dict[str, Any] | list[Any]
_CONTENT = "a string, an object or an array"
_ALLOWED = {
    "state": _CONTENT,
    "questions": f"an object of 1 to {MAX_QUESTIONS} questions",
    "questions[...].type": "one of noul, choice, score; this model reads text only",
    "questions[...].instructions": _CONTENT,
    "questions[...].criteria[...]": _CONTENT,
    "questions[...].criteria[]": _CONTENT,
}


class _Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    instructions: Content | None = None


class NoulCriteria(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What counts as yes and as no."""

    true: Content | None = None
    false: Content | None = None


class NoulQuestion(_Question, frozen=True, kw_only=True, tag="noul"):
    """Whether a statement is true."""

    criteria: NoulCriteria | None = None


class CriteriaQuestion(_Question, frozen=True, kw_only=True, tag="choice"):
    """Which of the named options fits; a description may be null."""

    criteria: Annotated[dict[str, Content | None], Meta(min_length=1, max_length=MAX_CHOICES)]


class LevelsQuestion(_Question, frozen=True, kw_only=True, tag="score"):
    """Which of the levels, from the lowest, fits."""

    criteria: Annotated[list[Content], Meta(min_length=1, max_length=MAX_LEVELS)]


AnyQuestion = NoulQuestion | CriteriaQuestion | LevelsQuestion


class SystemOneRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of TypeSafe's API 0.2. None counts as absent."""

    foreign: ClassVar[Rules] = {
        **NOT_DONE,
        "input": NotDone("send `state`"),
        **dict.fromkeys(("user", "metadata", "safety_identifier"), Ignored("it labels the request")),
    }
    state: Content
    questions: Annotated[dict[str, AnyQuestion], Meta(min_length=1, max_length=MAX_QUESTIONS)]
    model: str | None = None


def parse_systemone(body: dict[str, Any], settings: Settings) -> SystemOneRequest:
    """Raises InvalidRequest naming field, limit and value."""
    return read(body, SystemOneRequest, _ALLOWED, takes_unknown=settings.unknown_fields == "ignore")


def content_text(content: Content | None) -> str:
    """What the model reads of it."""
    if content is None:
        return ""
    return content if isinstance(content, str) else compact(content)


def question_of(asked: AnyQuestion) -> Question:
    """What it asks."""
    instructions = content_text(asked.instructions)
    if isinstance(asked, NoulQuestion):
        criteria = asked.criteria or NoulCriteria()
        told = (criteria.true, criteria.false)
        return Question("predicate", instructions, tuple(Option("", content_text(each)) for each in told))
    if isinstance(asked, LevelsQuestion):
        return Question("score", instructions, tuple(Option(content_text(level)) for level in asked.criteria))
    options = tuple(Option(name, content_text(told)) for name, told in asked.criteria.items())
    return Question("choice", instructions, options)
