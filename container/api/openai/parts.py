"""The parts of an answer's text: visible text, reasoning, tool calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text the model wrote for itself, between the marks of a thought."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of the tool `name` begins; the arguments that follow belong to it. `id` is what the model wrote, or ""."""

    name: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of the current call's arguments."""

    fragment: str


Part = Content | Reasoning | CallStart | CallArguments


def joined(parts: list[Part]) -> list[Part]:
    """The same parts without empty texts; adjacent parts of one kind are merged."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        match part, last:
            case (Content(""), _) | (Reasoning(""), _) | (CallArguments(""), _):
                continue
            case Content(text), Content(before):
                found[-1] = Content(before + text)
            case Reasoning(text), Reasoning(before):
                found[-1] = Reasoning(before + text)
            case CallArguments(text), CallArguments(before):
                found[-1] = CallArguments(before + text)
            case _:
                found.append(part)
    return found
