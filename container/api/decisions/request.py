"""The body of POST /v1/decisions, valid by construction."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from container.api.decisions import items
from container.api.decisions.items import Given, Item, check_calls, compact, text_of
from container.api.decisions.question import Option, Question
from container.api.openai.field_rules import Ignored, NotDone, Rules
from container.api.openai.foreign_fields import read
from container.api.validation import check
from container.settings import Settings

MAX_QUESTIONS, MAX_CHOICES, MAX_LEVELS = 400, 255, 10
_ALLOWED = {
    **items.ALLOWED,
    "questions[].type": "one of predicate, choice, score",
    "questions[].name": "a string, or absent",
    "questions[].choices[].value": "a string or a boolean",
}
_LABELS = Ignored("it labels the request")
# What neither dialect has: one answer, and no sampling.
NOT_DONE: Rules = {
    "stream": NotDone("the answers come at once", (False,)),
    "stream_options": NotDone("the answers come at once"),
    "temperature": NotDone("the probabilities are the model's own", (1,)),
    **dict.fromkeys(("images", "assets", "audio", "videos"), NotDone("this model reads text only", ({}, []))),
    "chat_template_kwargs": NotDone("thinking is off, and nothing else is to be set", ({},)),
    **dict.fromkeys(("messages", "prompt", "inputs"), NotDone("this route has fields of its own")),
    "instructions": NotDone("each question has its own", ("",)),
    **dict.fromkeys(("previous_response_id", "conversation"), NotDone("send what is judged itself")),
    **dict.fromkeys(("reasoning", "reasoning_effort"), NotDone("thinking is off", ({}, "none"))),
    "background": NotDone("answers are not made in the background", (False,)),
    "tools": NotDone("no function is called", ([],)),
}


class _Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """`name` is repeated in the answer. It may be absent, but not null, as at OpenAI."""

    instructions: Given
    name: str | UnsetType = UNSET


class PredicateQuestion(_Question, frozen=True, kw_only=True, tag="predicate"):
    """Whether a statement is true."""


class DecisionChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the values to choose from. "true" and true are two values."""

    value: str | bool
    description: str | None = None


class ChoiceQuestion(_Question, frozen=True, kw_only=True, tag="choice"):
    """Which of several values fits."""

    choices: Annotated[list[DecisionChoice], Meta(min_length=2, max_length=MAX_CHOICES)]


class DecisionLevel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One level of a scale."""

    label: str
    description: str | None = None


class ScoreQuestion(_Question, frozen=True, kw_only=True, tag="score"):
    """Which of the ordered levels fits."""

    levels: Annotated[list[DecisionLevel], Meta(min_length=2, max_length=MAX_LEVELS)]


AnyQuestion = PredicateQuestion | ChoiceQuestion | ScoreQuestion


class DecisionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields. None counts as absent. Caching and labels change no answer."""

    foreign: ClassVar[Rules] = {
        **NOT_DONE,
        "state": NotDone("send `input`"),
        **dict.fromkeys(("user", "metadata", "store", "service_tier", "extra_headers", "litellm_metadata"), _LABELS),
        "prompt_cache_retention": Ignored("prefixes are cached anyway"),
    }
    input: str | list[Item]
    questions: Annotated[list[AnyQuestion], Meta(min_length=1, max_length=MAX_QUESTIONS)]
    model: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    safety_identifier: str | None = None


def parse_decision(body: dict[str, Any], settings: Settings) -> DecisionRequest:
    """Raises InvalidRequest naming field, limit and value."""
    known = body | {"input": items.with_types(body["input"])} if "input" in body else body
    request = read(known, DecisionRequest, _ALLOWED, takes_unknown=settings.unknown_fields == "ignore")
    if not isinstance(request.input, str):
        check_calls(request.input)
    for i, question in enumerate(request.questions):
        if isinstance(question, ChoiceQuestion):
            _check_choices(question.choices, f"questions[{i}].choices")
    return request


def _check_choices(choices: list[DecisionChoice], place: str) -> None:
    seen: set[tuple[type, str | bool]] = set()
    for i, choice in enumerate(choices):
        value = (type(choice.value), choice.value)
        check(f"{place}[{i}].value", "unlike the others", choice.value, value not in seen)
        seen.add(value)


def question_of(asked: AnyQuestion) -> Question:
    """What it asks."""
    instructions = text_of(asked.instructions)
    if isinstance(asked, PredicateQuestion):
        return Question("predicate", instructions, (Option(), Option()))
    if isinstance(asked, ScoreQuestion):
        levels = tuple(Option(level.label, level.description or "") for level in asked.levels)
        return Question("score", instructions, levels)
    # Where a boolean is among them, strings have quotation marks.
    plain = all(isinstance(choice.value, str) for choice in asked.choices)
    names = (str(choice.value) if plain else compact(choice.value) for choice in asked.choices)
    options = zip(names, (choice.description or "" for choice in asked.choices), strict=True)
    return Question("choice", instructions, tuple(Option(*each) for each in options))
