"""`tools` and `tool_choice`: which functions the model may call, and what forces it to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from container.api.validation import check, show
from container.errors import InvalidRequest
from handler.protocol import Grammar, GrammarKind

_MAX_TOOLS = 128
_WORDS = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions a model is told of. `forced` names those it must call one of; empty if it is free not to."""

    functions: list[dict[str, Any]]
    forced: tuple[str, ...]
    parallel: bool

    @property
    def for_template(self) -> list[dict[str, Any]]:
        """The tools in the form chat templates read."""
        return [{"type": "function", "function": function} for function in self.functions]

    def grammar(self) -> Grammar | None:
        """One call as `{"name", "arguments"}`, its arguments after the function's own schema, if a call is forced."""
        if not self.forced:
            return None
        calls = [_call_schema(function) for function in self.functions if function["name"] in self.forced]
        schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
        return Grammar(GrammarKind.JSON_SCHEMA, msgspec.json.encode(schema).decode())


def tool_use(tools: list[dict[str, Any]] | None, choice: Any, parallel: bool | None) -> ToolUse | None:
    """What the request's three fields say together; None if no tool may be used. Raises InvalidRequest.

    TGI's choice by bare function name is taken too.
    """
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("`tool_choice` needs `tools`", param="tool_choice")
        return None
    check("tools", f"at most {_MAX_TOOLS} tools", len(tools), len(tools) <= _MAX_TOOLS)
    functions = [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    names = tuple(function["name"] for function in functions)
    name = _chosen_name(choice)
    if name is not None:
        check("tool_choice", f"none, auto, required or one of {', '.join(names)}"[:500], name, name in names)
        return ToolUse(functions, (name,), False)
    if choice == "none":
        return None
    return ToolUse(functions, names if choice == "required" else (), parallel is not False)


def _chosen_name(choice: Any) -> str | None:
    if choice is None or choice in _WORDS:
        return None
    if isinstance(choice, str):
        return choice
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise InvalidRequest(f"`tool_choice.function.name` must be a string. Given: {show(name)}", param="tool_choice")
    return name


def _function(tool: dict[str, Any], place: str) -> dict[str, Any]:
    kind, function = tool.get("type", "function"), tool.get("function")
    check(f"{place}.type", '"function"', kind, kind == "function")
    if not isinstance(function, dict):
        raise InvalidRequest(f"`{place}.function` must be an object. Given: {show(function)}", param=place)
    name = function.get("name")
    check(f"{place}.function.name", "a non-empty string", name, isinstance(name, str) and bool(name))
    parameters = function.get("parameters", function.get("arguments"))
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    check(f"{place}.function.parameters", "a JSON schema object", parameters, isinstance(parameters, dict))
    return {"name": name, "description": function.get("description") or "", "parameters": parameters}


def _call_schema(function: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": function["parameters"]},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def described_in_text(use: ToolUse) -> str:
    """The tools as a system message, for chat templates that have no place for them."""
    listed = "\n".join(msgspec.json.encode(function).decode() for function in use.functions)
    return (
        "You can call these functions. To call one, answer with nothing but "
        '<tool_call>{"name": "<function name>", "arguments": {<arguments>}}</tool_call>.\n' + listed
    )
