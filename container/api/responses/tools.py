"""`tools` and `tool_choice` of Responses: functions are offered, what only other servers can run is skipped."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from container.api.bounds import shown
from container.api.ignored_fields import note_ignored
from container.api.openai.field_rules import Ignored, NotDone, Rules
from container.api.openai.tools import (
    LONG_NAME_WORDS,
    MAX_LONG_NAME_CHARS,
    MAX_TOOLS,
    NAME,
    NO_PARAMETERS,
    Function,
    ToolUse,
    distinct,
)
from container.api.validation import check, show
from container.errors import InvalidRequest

SKIPPED = "skipped"
_OFFERED = ("function", "namespace")
_FUNCTION_NAME = Annotated[str, shown(pattern=NAME, minLength=1, maxLength=MAX_LONG_NAME_CHARS)]
_CHOICES = "none, auto, required, or an object that names a function"
ALLOWED = {
    "tools": f"at most {MAX_TOOLS} tools",
    "tools[].tools": f"at most {MAX_TOOLS} tools",
    "tools[].name": LONG_NAME_WORDS,
    "tools[].parameters": "a JSON schema object",
    "tools[].tools[].name": LONG_NAME_WORDS,
    "tools[].tools[].parameters": "a JSON schema object",
    "tool_choice": _CHOICES,
    "tool_choice.type": 'one of "function", "allowed_tools"; other tools are not run here',
    "tool_choice.mode": '"auto" or "required"',
    "tool_choice.tools": f"1 to {MAX_TOOLS} tools",
}


class FunctionTool(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function"
):
    """A function, without chat's `function` around it. Without `strict`, arguments are any object."""

    foreign: ClassVar[Rules] = {
        **dict.fromkeys(
            ("allowed_callers", "async", "async_", "metadata", "cache_control"),
            Ignored("it is meant for other servers"),
        ),
        "defer_loading": Ignored("every function is offered from the start"),
        "output_schema": Ignored("only `parameters` are enforced"),
        "function": NotDone("its fields stand beside `type`"),
    }
    name: _FUNCTION_NAME
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class SkippedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=SKIPPED):
    """A tool of another type, which other servers run: it is not offered, and the log says so."""


class NamespaceTool(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="namespace"
):
    """Functions under one name, such as those of one MCP server (Codex)."""

    name: str
    description: str | None = None
    tools: Annotated[list[FunctionTool | SkippedTool], Meta(max_length=MAX_TOOLS)]


AnyTool = FunctionTool | NamespaceTool | SkippedTool
Tools = Annotated[list[AnyTool], Meta(max_length=MAX_TOOLS)]


class FunctionChoice(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function"
):
    """The function to call."""

    name: str


class AllowedTool(msgspec.Struct, frozen=True, kw_only=True):
    """One of `tools`; those of other types are skipped as they are there."""

    type: str
    name: str | None = None


class ToolSubset(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"
):
    """A subset of the tools, for this request only."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Meta(min_length=1, max_length=MAX_TOOLS)]


ToolChoice = Literal["none", "auto", "required"] | FunctionChoice | ToolSubset


@dataclass(frozen=True)
class Offer:
    """The functions as the model sees them. `origins` leads from the name it calls to namespace and name."""

    functions: tuple[Function, ...]
    origins: dict[str, tuple[str | None, str]]

    def offered(self, namespace: str | None, name: str) -> str:
        """The name under which the model knows a function of an earlier call."""
        return self.names.get((namespace, name), name)

    @cached_property
    def names(self) -> dict[tuple[str | None, str], str]:
        """`origins` in the other direction."""
        return {origin: offered for offered, origin in self.origins.items()}

    @cached_property
    def by_name(self) -> dict[str, Function]:
        """The functions by the names that a request may give them: as they are offered, or without the namespace."""
        offered = {function.name: function for function in self.functions}
        return {self.origins[function.name][1]: function for function in reversed(self.functions)} | offered


def without_foreign(tools: Any) -> Any:
    """The tools of a body, with `SkippedTool` for each of a type that is not offered, also inside namespaces."""
    return [_known(tool) for tool in tools] if isinstance(tools, list) else tools


def _known(tool: Any, *, nested: bool = False) -> Any:
    if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
        return tool
    if tool["type"] not in _OFFERED:
        note_ignored(f"tools[type={tool['type'][:40]}]", "only functions are offered to the model")
        return {"type": SKIPPED}
    if nested or tool["type"] != "namespace" or not isinstance(tool.get("tools"), list):
        return tool
    return {**tool, "tools": [_known(each, nested=True) for each in tool["tools"]]}


def offer(tools: Sequence[AnyTool]) -> Offer:
    """The functions of a request's tools. Raises InvalidRequest."""
    origins: dict[str, tuple[str | None, str]] = {}
    found: list[tuple[Function, str]] = []
    for namespace, tool, path in _functions(tools):
        name = tool.name
        # A name that its own namespace has twice stays, and is refused as such.
        if namespace is not None and origins.get(name, (namespace, name)) != (namespace, name):
            name = _long_name(namespace, name, origins)
        origins.setdefault(name, (namespace, tool.name))
        parameters = tool.parameters or NO_PARAMETERS
        function = Function(name, tool.description or "", parameters, bool(tool.strict), f"{path}.parameters")
        found.append((function, f"{path}.name"))
    check("tools", f"at most {MAX_TOOLS} functions, with those of namespaces", len(found), len(found) <= MAX_TOOLS)
    return Offer(distinct(found, MAX_LONG_NAME_CHARS), origins)


def _long_name(namespace: str, name: str, taken: Container[str]) -> str:
    """The name with its namespace; where that is no name, or is taken, one made of both that is."""
    plain = f"{namespace}.{name}"
    if plain not in taken and len(plain) <= MAX_LONG_NAME_CHARS and re.fullmatch(NAME, plain):
        return plain
    digest = hashlib.sha256(f"{namespace}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{re.sub('[^A-Za-z0-9_.-]', '_', plain)[: MAX_LONG_NAME_CHARS - 17]}_{digest}"


def _functions(tools: Sequence[AnyTool]) -> Iterator[tuple[str | None, FunctionTool, str]]:
    """Each function with its namespace and its place. Those without one come first: they keep their names."""
    for i, tool in enumerate(tools):
        if isinstance(tool, FunctionTool):
            yield None, tool, f"tools[{i}]"
    for i, tool in enumerate(tools):
        if isinstance(tool, NamespaceTool):
            for j, each in enumerate(tool.tools):
                if isinstance(each, FunctionTool):
                    yield tool.name, each, f"tools[{i}].tools[{j}]"


def tool_use(offered: Offer, choice: ToolChoice | None, parallel: bool | None) -> ToolUse | None:
    """What the model may call; None if nothing. Raises InvalidRequest."""
    functions = offered.functions
    if isinstance(choice, FunctionChoice):
        return ToolUse(functions, (_named(choice.name, offered, "tool_choice.name"),), parallel=False)
    if isinstance(choice, ToolSubset):
        chosen = _chosen(choice, offered)
        return ToolUse(chosen, chosen if choice.mode == "required" else (), parallel is not False) if chosen else None
    if not functions and choice == "required":
        raise InvalidRequest("`tool_choice` needs a function in `tools`", param="tool_choice")
    if not functions or choice == "none":
        return None
    return ToolUse(functions, functions if choice == "required" else (), parallel is not False)


def _chosen(choice: ToolSubset, offered: Offer) -> tuple[Function, ...]:
    """Each function once, however often it is named."""
    named = (
        _named(tool.name or "", offered, f"tool_choice.tools[{i}].name")
        for i, tool in enumerate(choice.tools)
        if tool.type == "function"
    )
    chosen = {function.name: function for function in named}
    check("tool_choice.tools", "at least one function", choice.mode, bool(chosen) or choice.mode == "auto")
    return tuple(chosen.values())


def _named(name: str, offered: Offer, place: str) -> Function:
    function = offered.by_name.get(name)
    if function is not None:
        return function
    names = (
        ", ".join(function.name for function in offered.functions)[:300]
        or "the functions in `tools`, of which there are none"
    )
    raise InvalidRequest(f"`{place}` must be one of {names}. Given: {show(name)}", param=place)
