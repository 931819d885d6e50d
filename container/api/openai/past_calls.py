"""Past answers with calls, in the form that a template shows in full."""

from __future__ import annotations

from collections import deque
from typing import Any

from container.api.openai.system_messages import text_of
from container.api.openai.template_traits import TemplateTraits
from container.api.openai.tool_parsers import Form
from container.api.openai.written_calls import written_calls

Message = dict[str, Any]
_REASONING = ("reasoning_content", "reasoning", "thinking")


def shown_in_full(messages: list[Message], traits: TemplateTraits) -> list[Message]:
    """The same history where the template loses or refuses a part of it, as gpt-oss's does.

    Several calls of one answer become answers of one call, each before its result. Text beside a call becomes the end
    of the thought, or an answer before the call. Calls that a template with tools loses become text.
    """
    if not any("tool_calls" in message for message in messages):
        return messages
    if not traits.shows_calls:
        return _with_calls_written(messages, traits.form) if traits.takes_tools else messages
    if any(len(message.get("tool_calls", ())) > 1 for message in messages) and traits.splits_calls:
        messages = _with_calls_apart(messages)
    messages = [part for message in messages for part in _with_text_shown(message, traits)]
    if traits.wants_null_content:
        return [{**each, "content": None} if "tool_calls" in each else each for each in messages]
    return messages


def _with_text_shown(message: Message, traits: TemplateTraits) -> list[Message]:
    """The answer as one or two; text that the template shows nowhere stays where it is."""
    if "tool_calls" not in message or not message.get("content"):
        return [message]
    if _reasoning_of(message) and traits.takes_thought_or_text:
        return [_with_text_in_thought(message)]
    if traits.takes_call_text:
        return [message]
    if traits.takes_call_thought:
        return [_with_text_in_thought(message)]
    if not traits.takes_text_before_call:
        return [message]
    rest = {key: value for key, value in message.items() if key not in ("content", "tool_calls")}
    calls = {key: value for key, value in message.items() if key not in _REASONING}
    return [{**rest, "content": message["content"]}, {**calls, "content": ""}]


def _with_calls_written(messages: list[Message], form: Form) -> list[Message]:
    """Calls as text behind the text of their answers."""
    found: list[Message] = []
    number = 0
    for message in messages:
        if "tool_calls" in message:
            functions = [call["function"] for call in message["tool_calls"]]
            calls = written_calls(form, [(each["name"], each["arguments"]) for each in functions], number)
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            message = {**rest, "content": text_of(message) + calls}
            number += len(functions)
        found.append(message)
    return found


def _with_calls_apart(messages: list[Message]) -> list[Message]:
    found: list[Message] = []
    waiting = deque(messages)
    while waiting:
        message = waiting.popleft()
        calls = message.get("tool_calls", ())
        results = _Results()
        while calls and waiting and waiting[0]["role"] == "tool":
            results.add(waiting.popleft())
        for i, call in enumerate(calls):
            answer = message if i == 0 else {"role": "assistant", "content": ""}
            found.append({**answer, "tool_calls": [call]})
            found += results.taken(call)
        found += results.rest() if calls else [message]
    return found


class _Results:
    """The results of one answer's calls, in order. Each is found without a search: a body may have thousands."""

    def __init__(self) -> None:
        self._left: dict[int, Message] = {}
        self._first = 0
        self._places: dict[Any, deque[int]] = {}

    def add(self, result: Message) -> None:
        place = len(self._left)
        self._left[place] = result
        self._places.setdefault(result.get("tool_call_id"), deque()).append(place)

    def taken(self, call: Message) -> list[Message]:
        """Take the result of `call`: the first of those with its id and of those without any, or all if it has none."""
        if not self._left:
            return []
        while self._first not in self._left:
            self._first += 1
        call_id = call.get("id")
        places = [self._first] if call_id is None else [self._next(key) for key in (call_id, None)]
        place = min((each for each in places if each is not None), default=None)
        return [] if place is None else [self._left.pop(place)]

    def rest(self) -> list[Message]:
        """Those that no call has taken."""
        return list(self._left.values())

    def _next(self, key: Any) -> int | None:
        """The first place of those with this id that is not taken."""
        places = self._places.get(key, deque())
        while places and places[0] not in self._left:
            places.popleft()
        return places[0] if places else None


def _reasoning_of(message: Message) -> str:
    return next((message[key] for key in _REASONING if message.get(key)), "")


def _with_text_in_thought(message: Message) -> Message:
    rest = {key: value for key, value in message.items() if key not in _REASONING}
    thought = "\n\n".join(filter(None, [_reasoning_of(message), text_of(message)]))
    return {**rest, "content": "", "reasoning_content": thought}
