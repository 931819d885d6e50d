"""Checked messages and tools -> the form that the model's own chat template takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from typing import Any

import msgspec

from container.api.openai.past_calls import shown_in_full
from container.api.openai.system_messages import SYSTEM_ROLES, folded, text_of
from container.api.openai.template_tools import shown_tools
from container.api.openai.template_traits import TemplateTraits
from container.api.openai.tools import ToolUse
from container.api.openai.written_calls import written_calls

Message = dict[str, Any]

FORM_TOOLS = (
    "You can call functions. Answer with nothing but calls, or with text. "
    "A call of the function `example` with the argument `key` is written so:\n"
)
PLAIN_TOOLS = (
    "You can call functions. To call one, answer with nothing but a JSON object of its name and its arguments, such as "
    '{"name": "example", "arguments": {"key": "value"}}; to call several, write one object on each line. '
    "These are the functions:\n"
)


def conversation(
    messages: list[Message], tools: ToolUse | None, tool_prompt: str | None, traits: TemplateTraits
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Messages and tools for the template. The arguments are not modified.

    `developer` becomes `system` unless the template knows it, `function` becomes `tool`, and arguments of past calls
    become objects. What the template would lose or refuse is said where it takes it (`folded`, `shown_in_full`).
    If the template takes no tools, they go into the system message (`PLAIN_TOOLS`, or `FORM_TOOLS` if it shows calls in
    a known form). If it shows no calls either, past calls become the text that PLAIN_TOOLS asks for. Results that do
    not reach the prompt become user messages. TGI's `tool_prompt` replaces the sentences; if the template takes tools,
    it is appended to the last message, as in TGI.
    """
    adapted = folded([_adapted(message, traits) for message in _with_tool_names(messages)], traits)
    adapted = shown_in_full(adapted, traits)
    if not (traits.takes_tools or traits.shows_calls):
        adapted = _with_results_as_text([_with_calls_as_text(message) for message in adapted])
    elif _loses_results(adapted, tools, traits):
        adapted = _with_results_as_text(adapted)
    if tools is not None and traits.takes_tools:
        if tool_prompt is not None:
            adapted[-1] = _extended(adapted[-1], f"\n---\n{tool_prompt}")
        return adapted, shown_tools(tools, traits)
    if tools is not None:
        listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools.for_template)
        lead = _how_to_call(traits) if tool_prompt is None else f"{tool_prompt}\n"
        adapted = _with_instructions(adapted, lead + listed, traits)
    return adapted, None


def _how_to_call(traits: TemplateTraits) -> str:
    form = traits.known_form
    if form is None:
        return PLAIN_TOOLS
    one, two = (written_calls(form, [("example", {"key": "value"})] * count) for count in (1, 2))
    return FORM_TOOLS + one + "\nand two so:\n" + two + "\nThese are the functions:\n"


def _adapted(message: Message, traits: TemplateTraits) -> Message:
    role = message["role"]
    if role == "developer" and not traits.takes_developer:
        role = "system"
    adapted = {**message, "role": "tool" if role == "function" else role}
    if "tool_calls" in message:
        convert = _as_object if traits.writes_argument_objects else _as_text
        adapted["tool_calls"] = [_converted(call, convert) for call in message["tool_calls"]]
    return adapted


def _converted(call: dict[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": convert(function["arguments"])}}


def _as_object(arguments: Any) -> Any:
    """OpenAI's clients send JSON text. Text that is no JSON object stays text."""
    if not isinstance(arguments, str):
        return arguments
    try:
        found = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _with_tool_names(messages: list[Message]) -> list[Message]:
    """Results with the name of their function, which some templates print and OpenAI's clients leave out."""
    names: dict[str, str] = {}
    found: list[Message] = []
    for message in messages:
        names |= {call["id"]: call["function"]["name"] for call in message.get("tool_calls", ()) if "id" in call}
        name = names.get(message.get("tool_call_id", "")) if message["role"] == "tool" else None
        found.append(message if name is None else {"name": name, **message})
    return found


def _is_result(message: Message) -> bool:
    return bool(message["role"] == "tool")


def _loses_results(messages: list[Message], tools: ToolUse | None, traits: TemplateTraits) -> bool:
    shown = tools is not None and traits.takes_tools
    return any(map(_is_result, messages)) and not traits.shows_results(with_tools=shown)


def _with_results_as_text(messages: list[Message]) -> list[Message]:
    """Results as user messages; consecutive ones become one."""
    found: list[Message] = []
    for are_results, group in groupby(messages, _is_result):
        if are_results:
            texts = (f"Result of {each.get('name', 'the function')}:\n{text_of(each)}" for each in group)
            found.append({"role": "user", "content": "\n".join(texts)})
        else:
            found += group
    return found


def _with_calls_as_text(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    functions = [{**c["function"], "arguments": _as_object(c["function"]["arguments"])} for c in message["tool_calls"]]
    lines = [text_of(message), *(json.dumps(function, ensure_ascii=False) for function in functions)]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join(filter(None, lines))}


def _with_instructions(messages: list[Message], text: str, traits: TemplateTraits) -> list[Message]:
    """`text` in the system message, or before the first message if the template takes no system message."""
    first = messages[0]
    if first["role"] in SYSTEM_ROLES:
        return [_extended(first, "\n\n" + text), *messages[1:]]
    if traits.takes_system:
        return [{"role": "system", "content": text}, *messages]
    return [{**first, "content": text + "\n\n" + text_of(first)}, *messages[1:]]


def _extended(message: Message, text: str) -> Message:
    return {**message, "content": text_of(message) + text}
