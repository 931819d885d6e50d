"""`tools` and `tool_choice`: which functions the model may call, and which it must."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from container.api.bounds import shown
from container.api.validation import check, show
from container.errors import InvalidRequest

MAX_TOOLS = 128
_WORDS = ("none", "auto", "required")
# OpenAI's rule, plus the dot, which other servers accept.
NAME = r"^[A-Za-z0-9_.-]+$"
MAX_NAME_CHARS = 64
# Anthropic's limit. Names of MCP servers and their tools are as long.
MAX_LONG_NAME_CHARS = 128
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
_NAME_WORDS = "1 to {} letters, digits, dots, dashes or underscores"
NAME_WORDS = _NAME_WORDS.format(MAX_NAME_CHARS)
LONG_NAME_WORDS = _NAME_WORDS.format(MAX_LONG_NAME_CHARS)
ALLOWED = {
    "tools": f"at most {MAX_TOOLS} tools",
    "tools[].type": '"function"',
    "tools[].function.name": NAME_WORDS,
    "tools[].function.parameters": "a JSON schema object",
    "tool_choice": f"{', '.join(_WORDS)} or name a function",
    "tool_choice.type": '"function" or "allowed_tools", and name a function',
    "tool_choice.allowed_tools.mode": '"auto" or "required"',
    "tool_choice.allowed_tools.tools": f"an array of 1 to {MAX_TOOLS} tools",
}


class FunctionFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One function; TGI calls its schema `arguments`. transformers' tools describe what they return."""

    name: Annotated[str, shown(pattern=NAME, minLength=1, maxLength=MAX_NAME_CHARS)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    arguments: dict[str, Any] | None = None
    strict: bool | None = None
    returns: Any = msgspec.field(name="return", default=None)


class Tool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Functions are the only tools."""

    function: FunctionFields
    type: Literal["function"] = "function"


Tools = Annotated[list[Tool], Meta(max_length=MAX_TOOLS)]


class FunctionName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name of a function."""

    name: str


class NamedFunction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reference to one of the tools."""

    function: FunctionName
    type: Literal["function"] = "function"


class AllowedTools(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's subset of the tools, for this request only."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Meta(min_length=1, max_length=MAX_TOOLS)]


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The function to call, or the functions that may be called."""

    type: Literal["function", "allowed_tools"] = "function"
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None

    def __post_init__(self) -> None:
        """Raises ValueError; msgspec adds the path to its message."""
        if (self.function if self.type == "function" else self.allowed_tools) is None:
            raise ValueError("names no function")


_CHOICE_RULE = {
    "if": {"type": "object", "required": ["type"], "properties": {"type": {"const": "allowed_tools"}}},
    "then": {"required": ["allowed_tools"], "properties": {"allowed_tools": {"type": "object"}}},
    "else": {
        "if": {"type": "object"},
        "then": {"required": ["function"], "properties": {"function": {"type": "object"}}},
    },
}
# One of the words, or, as in TGI, the bare name of a function.
ToolChoiceField = Annotated[str | ToolChoice | None, shown(**_CHOICE_RULE)]


@dataclass(frozen=True, slots=True)
class Function:
    """One function; `strict` asks that its arguments fit `parameters` whenever it is called.

    `path` is where the request has `parameters`.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool
    path: str = "tools"

    @property
    def for_template(self) -> dict[str, Any]:
        """The tool in the form chat templates read."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions that the model may call. It must call one of `forced`, unless that is empty."""

    functions: tuple[Function, ...]
    forced: tuple[Function, ...]
    parallel: bool

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """The parameter schema of each function that can be called."""
        return {function.name: function.parameters for function in self.forced or self.functions}

    @property
    def strict(self) -> bool:
        """Whether calls of any function must fit its schema."""
        return any(function.strict for function in self.functions)

    @property
    def for_template(self) -> list[dict[str, Any]]:
        """The tools in the form chat templates read."""
        return [function.for_template for function in self.functions]


def tool_use(tools: list[Tool] | None, choice: str | ToolChoice | None, parallel: bool | None) -> ToolUse | None:
    """The meaning of the request's three fields; None if no tool may be used. Raises InvalidRequest."""
    functions = _functions(tools or [])
    if not functions and choice not in (None, "none", "auto"):
        raise InvalidRequest("`tool_choice` needs `tools`", param="tool_choice")
    if not functions or choice == "none":
        return None
    if choice in (None, "auto", "required"):
        return ToolUse(functions, functions if choice == "required" else (), parallel is not False)
    if isinstance(choice, ToolChoice) and choice.allowed_tools is not None and choice.type == "allowed_tools":
        named = dict.fromkeys(tool.function.name for tool in choice.allowed_tools.tools)
        chosen = tuple(_named(name, functions) for name in named)
        return ToolUse(chosen, chosen if choice.allowed_tools.mode == "required" else (), parallel is not False)
    name = choice.function.name if isinstance(choice, ToolChoice) and choice.function is not None else str(choice)
    return ToolUse(functions, (_named(name, functions),), parallel=False)


def _functions(tools: list[Tool]) -> tuple[Function, ...]:
    return distinct(
        [
            (_function(tool.function, f"tools[{i}].function"), f"tools[{i}].function.name")
            for i, tool in enumerate(tools)
        ]
    )


def distinct(functions: list[tuple[Function, str]], max_name_chars: int = MAX_NAME_CHARS) -> tuple[Function, ...]:
    """The functions, each given with the place of its name. Raises InvalidRequest for a name that is not allowed."""
    seen: set[str] = set()
    for function, place in functions:
        name = function.name
        ok = len(name) <= max_name_chars and re.fullmatch(NAME, name) is not None and not name.endswith("\n")
        check(place, _NAME_WORDS.format(max_name_chars), name, ok)
        check(place, "different from the others", name, name not in seen)
        seen.add(name)
    return tuple(function for function, _ in functions)


def _function(given: FunctionFields, path: str) -> Function:
    parameters = given.parameters or given.arguments or NO_PARAMETERS
    key = "arguments" if given.arguments and not given.parameters else "parameters"
    return Function(given.name, given.description or "", parameters, bool(given.strict), f"{path}.{key}")


def _named(name: str, functions: tuple[Function, ...]) -> Function:
    found = next((function for function in functions if function.name == name), None)
    if found is None:
        names = ", ".join(function.name for function in functions)
        raise InvalidRequest(
            f"`tool_choice` must be {', '.join(_WORDS)} or one of {names[:300]}. Given: {show(name)}",
            param="tool_choice",
        )
    return found
