"""The fields that are not done, in the OpenAPI document's schemas of a decision's request."""

from __future__ import annotations

from typing import Any

from container.api.decisions import items, request
from container.api.openai.document_limits import write_rules
from container.serving.served_model import ServedModel
from container.settings import Settings

_STRUCTS = (
    *(items.DecisionText, items.DecisionJson, items.DecisionOutputText, items.DecisionRefusedPart),
    *(items.DecisionMessage, items.DecisionCall, items.DecisionResult),
    *(items.DecisionCustomCall, items.DecisionCustomResult, request.DecisionRequest),
)


def write_limits(schemas: dict[str, Any], _settings: Settings, _served: ServedModel) -> None:
    """Complete `schemas`, the document's components, in place."""
    for struct in _STRUCTS:
        write_rules(schemas[struct.__name__]["properties"], struct.foreign)
    message = schemas["DecisionMessage"]
    message["required"].remove("type")
    message["properties"]["type"]["enum"].append(None)
