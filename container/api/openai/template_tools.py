"""Tools in the form that a chat template takes."""

from __future__ import annotations

from typing import Any

from container.api.openai.template_traits import TemplateTraits
from container.api.openai.tools import ToolUse


def shown_tools(tools: ToolUse, traits: TemplateTraits) -> list[dict[str, Any]]:
    """The tools. Of a list of types the first that is not null stays where the template fails on lists.

    Hermes' and Command R+'s templates call themselves without end on the type "null".
    """
    found = tools.for_template
    return found if traits.takes_type_lists else [_simple(tool) for tool in found]


def _simple(value: Any) -> Any:
    if isinstance(value, list):
        return [_simple(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _simple(item) for key, item in value.items()}
    types = found.get("type")
    if isinstance(types, list):
        found["type"] = next((name for name in types if name != "null"), "null")
    return found
