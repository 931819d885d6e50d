"""This server's limits in the OpenAPI document's schemas of OpenAI's requests."""

from __future__ import annotations

from typing import Any

from container.serving.served_model import ServedModel
from container.settings import Settings


def write_limits(schemas: dict[str, Any], settings: Settings, served: ServedModel) -> None:
    """Tighten `schemas`, the document's components, in place."""
    last_token_id = served.card.vocab_size - 1
    for name in ("ChatRequest", "CompletionRequest"):
        properties = schemas[name]["properties"]
        properties["n"]["maximum"] = settings.max_choices
        _array(properties["stop"])["maxItems"] = settings.max_stop_sequences
        for field in ("stop_token_ids", "allowed_token_ids"):
            _array(properties[field])["items"]["maximum"] = last_token_id
    properties = schemas["CompletionRequest"]["properties"]
    properties["best_of"]["maximum"] = settings.max_choices
    _, texts, ids, lists = properties["prompt"]["anyOf"]
    texts["maxItems"] = lists["maxItems"] = settings.max_client_batch_size
    ids["items"]["maximum"] = lists["items"]["items"]["maximum"] = last_token_id


def _array(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in schema["anyOf"] if each.get("type") == "array")
    return found
