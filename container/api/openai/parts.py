"""What an answer is made of once its text has been read: visible text, reasoning, tool calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text the model wrote for itself, between <think> and </think>."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of the tool `name` begins; the arguments that follow are its own."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of the current call's arguments."""

    fragment: str


Part = Content | Reasoning | CallStart | CallArguments


def joined(parts: list[Part]) -> list[Part]:
    """The same parts with empty texts left out and neighbours of one kind put together."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        match part, last:
            case (Content(""), _) | (Reasoning(""), _) | (CallArguments(""), _):
                continue
            case Content(text), Content(before):
                found[-1] = Content(before + text)
            case CallArguments(text), CallArguments(before):
                found[-1] = CallArguments(before + text)
            case _:
                found.append(part)
    return found
