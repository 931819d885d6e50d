"""Past answers with calls, in the form that a template shows in full."""

from __future__ import annotations

from typing import Any

from container.api.openai.system_messages import text_of
from container.api.openai.template_traits import TemplateTraits

Message = dict[str, Any]
_REASONING = ("reasoning_content", "reasoning", "thinking")


def shown_in_full(messages: list[Message], traits: TemplateTraits) -> list[Message]:
    """The same history where the template loses or refuses a part of it, as gpt-oss's does.

    Several calls of one answer become answers of one call, each before its result. Text beside a call and a thought
    becomes the thought's end.
    """
    if not any("tool_calls" in message for message in messages):
        return messages
    if any(len(message.get("tool_calls", ())) > 1 for message in messages) and traits.splits_calls:
        messages = _with_calls_apart(messages)
    if any(map(_says_both, messages)) and traits.takes_thought_or_text:
        messages = [_with_text_in_thought(message) if _says_both(message) else message for message in messages]
    return messages


def _with_calls_apart(messages: list[Message]) -> list[Message]:
    found: list[Message] = []
    waiting = list(messages)
    while waiting:
        message = waiting.pop(0)
        calls = message.get("tool_calls", ())
        results = []
        while calls and waiting and waiting[0]["role"] == "tool":
            results.append(waiting.pop(0))
        for i, call in enumerate(calls):
            answer = message if i == 0 else {"role": "assistant", "content": ""}
            found.append({**answer, "tool_calls": [call]})
            found += _taken(results, call)
        found += [*results] if calls else [message]
    return found


def _taken(results: list[Message], call: Message) -> list[Message]:
    """Take the result of `call` from `results`: the one with its id, or the first if either has none."""
    for i, result in enumerate(results):
        if call.get("id") is None or result.get("tool_call_id") in (None, call["id"]):
            return [results.pop(i)]
    return []


def _reasoning_of(message: Message) -> str:
    return next((message[key] for key in _REASONING if message.get(key)), "")


def _says_both(message: Message) -> bool:
    return "tool_calls" in message and bool(message.get("content")) and bool(_reasoning_of(message))


def _with_text_in_thought(message: Message) -> Message:
    rest = {key: value for key, value in message.items() if key not in _REASONING}
    return {**rest, "content": "", "reasoning_content": f"{_reasoning_of(message)}\n\n{text_of(message)}"}
