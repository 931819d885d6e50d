"""`tools` and `tool_choice`: which functions the model may call, and what forces it to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from container.api.validation import check, show
from container.errors import InvalidRequest

_MAX_TOOLS = 128
_WORDS = ("none", "auto", "required")
# OpenAI's rule, with the dot that other servers take.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Function:
    """One function; `strict` asks that its arguments fit `parameters` whenever it is called."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool

    @property
    def for_template(self) -> dict[str, Any]:
        """The tool in the form chat templates read."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions a model is told of. `forced` are those it must call one of; empty if it is free not to."""

    functions: tuple[Function, ...]
    forced: tuple[Function, ...]
    parallel: bool

    @property
    def names(self) -> frozenset[str]:
        """What can be called."""
        return frozenset(function.name for function in self.forced or self.functions)

    @property
    def for_template(self) -> list[dict[str, Any]]:
        """The tools in the form chat templates read."""
        return [function.for_template for function in self.functions]


def tool_use(tools: list[dict[str, Any]] | None, choice: Any, parallel: bool | None) -> ToolUse | None:
    """What the request's three fields say together; None if no tool may be used. Raises InvalidRequest.

    TGI's choice by bare function name is taken too.
    """
    functions = _functions(tools or [])
    if not functions and choice not in (None, "none", "auto"):
        raise InvalidRequest("`tool_choice` needs `tools`", param="tool_choice")
    if not functions or choice == "none":
        return None
    if choice in (None, "auto", "required"):
        return ToolUse(functions, functions if choice == "required" else (), parallel is not False)
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return _allowed(choice.get("allowed_tools"), functions, parallel is not False)
    named = _named(choice if isinstance(choice, str) else _chosen(choice), functions)
    return ToolUse(functions, (named,), parallel=False)


def _functions(tools: list[dict[str, Any]]) -> tuple[Function, ...]:
    check("tools", f"at most {_MAX_TOOLS} tools", len(tools), len(tools) <= _MAX_TOOLS)
    functions = tuple(_function(tool, f"tools[{i}]") for i, tool in enumerate(tools))
    seen: set[str] = set()
    for i, function in enumerate(functions):
        check(f"tools[{i}].function.name", "different from the others", function.name, function.name not in seen)
        seen.add(function.name)
    return functions


def _function(tool: dict[str, Any], place: str) -> Function:
    kind, function = tool.get("type", "function"), tool.get("function")
    check(f"{place}.type", '"function"', kind, kind == "function")
    if not isinstance(function, dict):
        raise InvalidRequest(f"`{place}.function` must be an object. Given: {show(function)}", param=place)
    name = function.get("name")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        allowed = "1 to 64 letters, digits, dots, dashes or underscores"
        raise InvalidRequest(
            f"`{place}.function.name` must be {allowed}. Given: {show(name)}", param=f"{place}.function.name"
        )
    # TGI calls the schema `arguments`.
    parameters = function.get("parameters") or function.get("arguments") or _NO_PARAMETERS
    check(f"{place}.function.parameters", "a JSON schema object", parameters, isinstance(parameters, dict))
    description = function.get("description") or ""
    check(f"{place}.function.description", "a string", description, isinstance(description, str))
    return Function(name, description, parameters, bool(function.get("strict")))


def _allowed(allowed: Any, functions: tuple[Function, ...], parallel: bool) -> ToolUse:
    """OpenAI's subset of the tools, for this request only."""
    place = "tool_choice.allowed_tools"
    tools = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(tools, list) or not tools:
        raise InvalidRequest(f"`{place}.tools` must be a non-empty array. Given: {show(tools)}", param="tool_choice")
    mode = allowed.get("mode")
    check(f"{place}.mode", '"auto" or "required"', mode, mode in {"auto", "required"})
    chosen = tuple(_named(_chosen(tool), functions) for tool in tools)
    return ToolUse(chosen, chosen if mode == "required" else (), parallel)


def _chosen(choice: Any) -> str:
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise InvalidRequest(
            f"`tool_choice` must be {', '.join(_WORDS)} or name a function. Given: {show(choice)}", param="tool_choice"
        )
    return name


def _named(name: str, functions: tuple[Function, ...]) -> Function:
    found = next((function for function in functions if function.name == name), None)
    if found is None:
        names = ", ".join(function.name for function in functions)
        raise InvalidRequest(
            f"`tool_choice` must be {', '.join(_WORDS)} or one of {names[:300]}. Given: {show(name)}",
            param="tool_choice",
        )
    return found
