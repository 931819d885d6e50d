"""`tools` and `tool_choice` of Messages: a tool with a schema is offered, what only Anthropic defines is skipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from container.api.bounds import shown
from container.api.ignored_fields import note_ignored
from container.api.openai.field_rules import Ignored, NotDone, Rules
from container.api.openai.tools import (
    LONG_NAME_WORDS,
    MAX_LONG_NAME_CHARS,
    NAME,
    NO_PARAMETERS,
    Function,
    ToolUse,
    distinct,
)
from container.api.validation import show
from container.errors import InvalidRequest

CUSTOM = "custom"
_SEARCHES = "tool_search_tool"
# Anthropic names no limit; agents with several MCP servers send hundreds.
MAX_TOOLS = 1024
SKIPPED = "skipped"
ALLOWED = {
    "tools": f"at most {MAX_TOOLS} tools",
    "tools[].name": LONG_NAME_WORDS,
    "tools[].input_schema": "a JSON schema object",
    "tool_choice": "an object with `type`",
    "tool_choice.type": "one of auto, any, tool, none",
}


class CustomTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=CUSTOM):
    """A tool that the client runs, whatever its `type`. Without `strict`, arguments are any object.

    `defer_loading`: it is not offered until the conversation names it, unless a search of Anthropic's should find it.
    """

    foreign: ClassVar[Rules] = {
        "cache_control": Ignored("prefixes are cached anyway"),
        **dict.fromkeys(
            ("allowed_callers", "eager_input_streaming", "input_examples"), Ignored("it is meant for other servers")
        ),
        **dict.fromkeys(("parameters", "function"), NotDone("send `input_schema` beside `name`")),
    }
    name: Annotated[str, shown(pattern=NAME, minLength=1, maxLength=MAX_LONG_NAME_CHARS)]
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class SkippedServerTool(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=SKIPPED
):
    """A tool whose schema is Anthropic's: it is not offered, and the log says so. One `searches` deferred tools."""

    searches: bool = False


Tools = Annotated[list[CustomTool | SkippedServerTool], Meta(max_length=MAX_TOOLS)]


class _Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    disable_parallel_tool_use: bool | None = None


class AutoChoice(_Choice, frozen=True, kw_only=True, tag="auto"):
    """The model decides."""


class AnyChoice(_Choice, frozen=True, kw_only=True, tag="any"):
    """The model calls a tool."""


class NamedChoice(_Choice, frozen=True, kw_only=True, tag="tool"):
    """The model calls this tool."""

    name: str


class NoChoice(_Choice, frozen=True, kw_only=True, tag="none"):
    """The model calls none."""


Choice = AutoChoice | AnyChoice | NamedChoice | NoChoice


def with_types(tools: Any) -> Any:
    """The tools of a body, each with a type of ours: one that has another type and no schema is skipped."""
    return [with_type(tool) for tool in tools] if isinstance(tools, list) else tools


def with_type(tool: Any) -> Any:
    """One tool of a body, as `with_types`."""
    if not isinstance(tool, dict):
        return tool
    kind = tool.get("type")
    if kind is not None and not isinstance(kind, str):
        return tool
    if kind is None or kind == CUSTOM or "input_schema" in tool:
        return {**tool, "type": CUSTOM}
    note_ignored(f"tools[type={kind[:40]}]", "only tools with an `input_schema` are offered to the model")
    return {"type": SKIPPED, "searches": kind.startswith(_SEARCHES)}


def tool_use(functions: tuple[Function, ...], choice: Choice | None) -> ToolUse | None:
    """What the model may call of the functions that are offered; None if nothing. Raises InvalidRequest."""
    if isinstance(choice, NamedChoice):
        return ToolUse(functions, (_named(choice.name, functions),), parallel=False)
    if not functions and isinstance(choice, AnyChoice):
        raise InvalidRequest("`tool_choice` needs a tool with an `input_schema` in `tools`", param="tool_choice")
    if not functions or isinstance(choice, NoChoice):
        return None
    parallel = choice is None or not choice.disable_parallel_tool_use
    return ToolUse(functions, functions if isinstance(choice, AnyChoice) else (), parallel)


def declared(tools: Sequence[CustomTool | SkippedServerTool]) -> tuple[Function, ...]:
    """The functions of `tools`, also of those that are deferred. Raises InvalidRequest."""
    return checked([(tool, f"tools[{i}]") for i, tool in enumerate(tools) if isinstance(tool, CustomTool)])


def checked(given: Sequence[tuple[CustomTool, str]]) -> tuple[Function, ...]:
    """Tools with their places in the body, as functions. Raises InvalidRequest for names that are not allowed."""
    found = [(_function(tool, f"{place}.input_schema"), f"{place}.name") for tool, place in given]
    return distinct(found, MAX_LONG_NAME_CHARS)


def _function(tool: CustomTool, path: str) -> Function:
    return Function(tool.name, tool.description or "", tool.input_schema or NO_PARAMETERS, bool(tool.strict), path)


def _named(name: str, functions: Sequence[Function]) -> Function:
    found = next((function for function in functions if function.name == name), None)
    if found is None:
        names = (
            ", ".join(function.name for function in functions)[:300]
            or "the tools that are offered, of which there are none"
        )
        raise InvalidRequest(
            f"`tool_choice.name` must be one of {names}. Given: {show(name)}", param="tool_choice.name"
        )
    return found
