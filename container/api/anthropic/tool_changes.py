"""Which tools are offered at the end of a conversation that changes them as it goes.

Claude Code defers most of its tools: a result of its own search, or a system turn, names those that it loads.
The prompt has all offered tools in front: one that is loaded costs the prefixes of the turns before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from container.api.anthropic.blocks import (
    DefinedTool,
    FoundTool,
    SystemTurn,
    ToolAddition,
    ToolRemoval,
    ToolResultBlock,
    Turn,
    UserTurn,
)
from container.api.anthropic.tools import (
    Choice,
    CustomTool,
    NamedChoice,
    SkippedServerTool,
    checked,
    declared,
    with_type,
)
from container.api.openai.tools import Function
from container.api.validation import check


def offered(
    tools: Sequence[CustomTool | SkippedServerTool], turns: Sequence[Turn], choice: Choice | None
) -> tuple[Function, ...]:
    """The functions that the model may call next. Raises InvalidRequest.

    A deferred tool is one of them once a turn or `choice` names it, or if a search that runs elsewhere should find it.
    A tool has its newest definition. One that was removed is offered again only by a turn.
    """
    # By name, in the order of `tools`: a change leaves the prompt before it as it was.
    defined = {function.name: function for function in declared(tools)}
    deferred = _deferred(tools)
    names = defined.keys() - deferred
    for i, turn in enumerate(turns):
        names |= {name for name in _found_by(turn) if name in defined}
        for place, change in _changes(turn, f"messages[{i}]"):
            if isinstance(change, ToolRemoval):
                names.discard(change.tool.name)
                deferred.discard(change.tool.name)
            else:
                names |= _added(change, defined, place)
    if isinstance(choice, NamedChoice) and choice.name in deferred:
        names.add(choice.name)
    return tuple(function for name, function in defined.items() if name in names)


def with_types_in_turns(turns: Any) -> Any:
    """The messages of a body, each tool that a system turn defines with a type of ours."""
    return [_with_types(turn) for turn in turns] if isinstance(turns, list) else turns


def _deferred(tools: Sequence[CustomTool | SkippedServerTool]) -> set[str]:
    if any(isinstance(tool, SkippedServerTool) and tool.searches for tool in tools):
        return set()
    return {tool.name for tool in tools if isinstance(tool, CustomTool) and tool.defer_loading}


def _found_by(turn: Turn) -> Iterator[str]:
    """The tools that the results of a user's turn name."""
    for block in turn.content if isinstance(turn, UserTurn) else ():
        if isinstance(block, ToolResultBlock):
            yield from (part.tool_name for part in block.content or () if isinstance(part, FoundTool))


def _changes(turn: Turn, place: str) -> Iterator[tuple[str, ToolAddition | ToolRemoval]]:
    for i, block in enumerate(turn.content if isinstance(turn, SystemTurn) else ()):
        if isinstance(block, ToolAddition | ToolRemoval):
            yield f"{place}.content[{i}].tool", block


def _added(addition: ToolAddition, defined: dict[str, Function], place: str) -> set[str]:
    """The names that are offered from here on. A definition goes into `defined`."""
    tool = addition.tool
    if isinstance(tool, DefinedTool):
        given = tool.definition
        anew = checked([(given, f"{place}.definition")]) if isinstance(given, CustomTool) else ()
        defined |= {function.name: function for function in anew}
        return {function.name for function in anew}
    check(f"{place}.name", "the name of a tool in `tools` or of an earlier definition", tool.name, tool.name in defined)
    return {tool.name}


def _with_types(turn: Any) -> Any:
    blocks = turn.get("content") if isinstance(turn, dict) and turn.get("role") == "system" else None
    return {**turn, "content": [_with_type(block) for block in blocks]} if isinstance(blocks, list) else turn


def _with_type(block: Any) -> Any:
    tool = block.get("tool") if isinstance(block, dict) else None
    if not isinstance(tool, dict) or "definition" not in tool:
        return block
    return {**block, "tool": {**tool, "definition": with_type(tool["definition"])}}
