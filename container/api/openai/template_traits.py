"""What a chat template supports, found from its text and by rendering probes."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

from container.api.openai.reasoning import CLOSE, OPEN
from container.api.openai.tool_parsers import Family
from container.text.chat_template import ChatTemplate, TemplateError

_PROBE = "Probe7f3a"
_USER = {"role": "user", "content": "a"}
# A tool with everything that `Function.for_template` can give: a template may fail where a part is absent.
_PARAMETERS = {
    "type": "object",
    "description": _PROBE,
    "title": _PROBE,
    "properties": {
        "text": {"type": "string", "description": _PROBE, "title": "a", "enum": ["a", "b"], "default": "a"},
        "texts": {"type": "array", "description": _PROBE, "items": {"type": "string", "description": "a"}},
        "part": {
            "type": "object",
            "description": _PROBE,
            "properties": {"size": {"type": "integer", "description": "a", "minimum": 0, "maximum": 9}},
            "required": ["size"],
        },
    },
    "required": ["text", "texts"],
    "additionalProperties": False,
}
_TOOL = {"type": "function", "function": {"name": _PROBE, "description": _PROBE, "parameters": _PARAMETERS}}


class TemplateTraits:
    """Facts about one template, each computed on first use."""

    def __init__(self, template: ChatTemplate) -> None:
        self._render = template.render
        self._source = template.source + template.tool_source

    @cached_property
    def family(self) -> Family:
        """How the model writes tool calls."""
        return Family.of(self._source) if self.takes_tools else Family.PLAIN

    @cached_property
    def takes_tools(self) -> bool:
        """Whether tools given to the template reach the prompt."""
        return _PROBE in self._rendered([_USER], [_TOOL])

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system message reaches the prompt."""
        return _PROBE in self._rendered([{"role": "system", "content": _PROBE}, _USER])

    @cached_property
    def takes_developer(self) -> bool:
        """Whether the template mentions the developer role."""
        return "developer" in self._source

    @cached_property
    def thinks(self) -> bool:
        """Whether the model puts its reasoning between <think> and </think>."""
        return OPEN in self._source or CLOSE in self._source

    @cached_property
    def writes_argument_objects(self) -> bool:
        """Whether past calls' arguments must be objects, as in transformers, rather than JSON text.

        False only for templates that fail on an object, or print it as Python's repr, but handle text.
        """
        as_object = self._rendered(_with_call({"a": "b"}))
        if as_object and "'b'" not in as_object:
            return True
        return '"b"' not in self._rendered(_with_call('{"a": "b"}'))

    def mentions(self, variable: str) -> bool:
        """Whether the template's text names `variable`."""
        return variable in self._source

    def _rendered(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """The prompt, "" if the template refuses."""
        try:
            return self._render(messages, tools=tools).text
        except TemplateError:
            return ""


@lru_cache(maxsize=2)
def traits_of(template: ChatTemplate) -> TemplateTraits:
    """The traits of a template, computed once per loaded template."""
    return TemplateTraits(template)


def _with_call(arguments: Any) -> list[dict[str, Any]]:
    call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": arguments}}
    answer = {"role": "tool", "content": "b", "tool_call_id": "call00001", "name": "f"}
    return [_USER, {"role": "assistant", "content": "", "tool_calls": [call]}, answer]
