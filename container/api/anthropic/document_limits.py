"""This server's limits and the fields that are not done, in the OpenAPI document's schemas of Messages' requests."""

from __future__ import annotations

import copy
from typing import Any

from container.api.anthropic import blocks, request, tools
from container.api.openai.document_limits import without_mapping, write_rules, write_token_limits
from container.serving.served_model import ServedModel
from container.settings import Settings

_STRUCTS = (
    *(blocks.TextBlock, blocks.ThinkingBlock, blocks.RedactedThinkingBlock, blocks.ToolUseBlock),
    *(blocks.ToolResultBlock, blocks.UserTurn, blocks.AssistantTurn, blocks.SystemTurn, tools.CustomTool),
    *(blocks.FoundTool, blocks.ToolAddition, blocks.ToolRemoval, blocks.NamedTool, blocks.DefinedTool),
    blocks.TurnConfig,
    *(request.MessagesRequest, request.CountRequest, request.ThinkingAdaptive, request.ThinkingOff),
    *(request.AnswerSchema, request.OutputConfig, request.ThinkingOn),
    *(tools.AutoChoice, tools.AnyChoice, tools.NamedChoice, tools.NoChoice),
)

_REQUESTS = ("MessagesRequest", "CountRequest")
_TEXT_BLOCK = {"$ref": "#/components/schemas/TextBlock"}


def write_limits(schemas: dict[str, Any], settings: Settings, _served: ServedModel) -> None:
    """Tighten and complete `schemas`, the document's components, in place."""
    for name in _REQUESTS:
        properties = schemas[name]["properties"]
        write_token_limits(properties, settings)
        without_mapping(properties["tools"])
        next(each for each in properties["stop_sequences"]["anyOf"] if each.get("type") == "array")["maxItems"] = (
            settings.max_stop_sequences
        )
    for struct in _STRUCTS:
        write_rules(schemas[struct.__name__]["properties"], getattr(struct, "foreign", {}))
        # Fields of Anthropic's newest betas are taken.
        schemas[struct.__name__]["additionalProperties"] = True
    # A struct that stands alone is known without its type.
    schemas["AnswerSchema"]["required"].remove("type")
    for name in ("TextBlock", "NamedTool"):
        alone = schemas[f"{name}Alone"] = copy.deepcopy(schemas[name])
        alone["required"].remove("type")
    schemas["ToolRemoval"]["properties"]["tool"] = {"$ref": "#/components/schemas/NamedToolAlone"}
    schemas["DefinedTool"]["properties"]["definition"].pop("discriminator")
    for struct in _STRUCTS:
        for field in schemas[struct.__name__]["properties"].values():
            for array in (each for each in field.get("anyOf", ()) if each.get("items") == _TEXT_BLOCK):
                array["items"] = {"$ref": "#/components/schemas/TextBlockAlone"}
    schemas["CustomTool"]["required"].remove("type")
    schemas["CustomTool"]["properties"]["type"] = {"type": ["string", "null"]}
    schemas["SkippedServerTool"] = {
        "type": "object",
        "description": schemas["SkippedServerTool"]["description"],
        "required": ["type"],
        "properties": {"type": {"type": "string", "not": {"const": tools.CUSTOM}}},
        "not": {"required": ["input_schema"]},
    }
