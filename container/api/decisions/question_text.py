"""A question as the model reads it, after the text that it is about."""

from __future__ import annotations

from collections.abc import Sequence

from container.api.decisions.question import Kind, Question

_CLOSING: dict[Kind, str] = {
    "predicate": "Answer with Yes or No only.",
    "choice": "Answer with the letter of the option that fits best only.",
    "score": "Answer with the number of the level that fits best only.",
}
_PAIRS = "Answer with the two letters of the option that fits best only."
_LEAD: dict[Kind, str] = {"predicate": "Is this true?", "choice": "Question:", "score": "Question:"}
_UNSAID: dict[Kind, str] = {
    "predicate": "Is it true?",
    "choice": "Which option fits best?",
    "score": "Which level fits best?",
}


def closing(kind: Kind, *, pairs: bool = False) -> str:
    """The last line. Prompts of one kind end alike, so labels have the same tokens in all of them."""
    return _PAIRS if pairs else _CLOSING[kind]


def question_text(state: str, question: Question, labels: Sequence[str]) -> str:
    """The user's message. The text comes first: the questions of a request share it in the prefix cache."""
    kind, asked = question.kind, question.instructions.strip()
    lines = [f"{_LEAD[kind]} {asked}" if asked else _UNSAID[kind]]
    for label, option in zip(labels, question.options, strict=True):
        told = " - ".join(filter(None, (option.name, option.description)))
        if told or kind != "predicate":
            lines.append(f"{label}: {told}")
    return f"{state}\n\n" + "\n".join([*lines, closing(kind, pairs=kind == "choice" and len(labels[0]) > 1)])
