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
    """
    known = {function.name: function for function in declared(tools)}
    found = {name: known[name] for name in known.keys() - _deferred(tools)}
    for i, turn in enumerate(turns):
        for name in _found_by(turn):
            found |= {name: known[name]} if name in known else {}
        for place, change in _changes(turn, f"messages[{i}]"):
            if isinstance(change, ToolRemoval):
                found.pop(change.tool.name, None)
            else:
                found |= {function.name: function for function in _added(change, known, place)}
    if isinstance(choice, NamedChoice) and choice.name in known:
        found[choice.name] = known[choice.name]
    # In the order of `tools`, so that a change leaves the prompt before it as it was.
    return tuple(found[name] for name in [*known, *(name for name in found if name not in known)] if name in found)


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


def _added(addition: ToolAddition, known: dict[str, Function], place: str) -> tuple[Function, ...]:
    tool = addition.tool
    if isinstance(tool, DefinedTool):
        given = tool.definition
        return checked([(given, f"{place}.definition")]) if isinstance(given, CustomTool) else ()
    check(f"{place}.name", "the name of a tool in `tools`", tool.name, tool.name in known)
    return (known[tool.name],)


def _with_types(turn: Any) -> Any:
    blocks = turn.get("content") if isinstance(turn, dict) and turn.get("role") == "system" else None
    return {**turn, "content": [_with_type(block) for block in blocks]} if isinstance(blocks, list) else turn


def _with_type(block: Any) -> Any:
    tool = block.get("tool") if isinstance(block, dict) else None
    if not isinstance(tool, dict) or "definition" not in tool:
        return block
    return {**block, "tool": {**tool, "definition": with_type(tool["definition"])}}
