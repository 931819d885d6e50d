"""This server's limits and the fields that are not done, in the OpenAPI document's schemas of Responses' request."""

from __future__ import annotations

from typing import Any

from container.api.openai.document_limits import without_mapping, write_rules, write_token_limits
from container.api.responses import items, request, tools
from container.serving.served_model import ServedModel
from container.settings import Settings

_STRUCTS = (
    *(items.MessageItem, items.CallItem, items.ResultItem, items.ReasoningItem, items.SummaryPart, items.ThoughtPart),
    *(items.InputTextPart, items.OutputTextPart, items.PlainTextPart, items.RefusedPart),
    *(tools.FunctionTool, request.ResponseRequest, request.ReasoningOptions, request.StreamChoices),
)


def write_limits(schemas: dict[str, Any], settings: Settings, served: ServedModel) -> None:
    """Tighten and complete `schemas`, the document's components, in place."""
    write_token_limits(schemas["ResponseRequest"]["properties"], settings)
    for struct in _STRUCTS:
        write_rules(schemas[struct.__name__]["properties"], struct.foreign)
    for name in ("SummaryPart", "ThoughtPart"):
        # A struct that stands alone is known without its type.
        schemas[name]["required"].remove("type")
    for name in ("ResponseRequest", "NamespaceTool"):
        without_mapping(schemas[name]["properties"]["tools"])
    message = schemas["MessageItem"]
    message["required"].remove("type")
    message["properties"]["type"]["enum"].append(None)
    # Any tool that is not offered may have any fields.
    schemas["SkippedTool"] = {
        "type": "object",
        "description": schemas["SkippedTool"]["description"],
        "required": ["type"],
        "properties": {"type": {"type": "string", "not": {"enum": ["function", "namespace"]}}},
    }
