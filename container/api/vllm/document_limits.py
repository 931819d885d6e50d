"""This server's limits in the OpenAPI document's schemas of the tokenizer routes."""

from __future__ import annotations

from typing import Any

from container.api.openai.document_limits import write_rules
from container.api.vllm.requests import DetokenizeRequest, TokenizePrompt
from container.serving.served_model import ServedModel
from container.settings import Settings


def write_limits(schemas: dict[str, Any], _settings: Settings, served: ServedModel) -> None:
    """Tighten and complete `schemas`, the document's components, in place; those of a chat are complete."""
    properties = schemas["TokenizeChat"]["properties"]
    properties |= schemas["ChatRequest"]["properties"]
    for struct in (TokenizePrompt, DetokenizeRequest):
        write_rules(schemas[struct.__name__]["properties"], struct.foreign)
    schemas["DetokenizeRequest"]["properties"]["tokens"]["items"]["maximum"] = served.card.vocab_size - 1
