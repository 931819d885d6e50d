"""This server's limits, and the fields of `field_rules`, in the OpenAPI document's schemas of OpenAI's requests."""

from __future__ import annotations

from typing import Any

import msgspec

from container.api.openai.field_rules import RULES, Ignored, NotDone, Rules, Spelling
from container.api.openai.reasoning_effort import ReasoningWishes
from container.serving.served_model import ServedModel
from container.settings import Settings


def write_limits(schemas: dict[str, Any], settings: Settings, served: ServedModel) -> None:
    """Tighten and complete `schemas`, the document's components, in place."""
    _write_rules(schemas)
    last_token_id = served.card.vocab_size - 1
    for name in ("ChatRequest", "CompletionRequest"):
        properties = schemas[name]["properties"]
        properties["n"]["maximum"] = settings.max_choices
        write_token_limits(properties, settings)
        for field in ("stop_token_ids", "allowed_token_ids"):
            _array(properties[field])["items"]["maximum"] = last_token_id
    properties = schemas["CompletionRequest"]["properties"]
    properties["best_of"]["maximum"] = settings.max_choices
    _, texts, ids, lists = properties["prompt"]["anyOf"]
    texts["maxItems"] = lists["maxItems"] = settings.max_client_batch_size
    ids["items"]["maximum"] = lists["items"]["items"]["maximum"] = last_token_id


def write_token_limits(properties: dict[str, Any], settings: Settings) -> None:
    """Tighten the schemas of `TokenFields`, in place."""
    _array(properties["stop"])["maxItems"] = settings.max_stop_sequences


def write_rules(properties: dict[str, Any], rules: Rules) -> None:
    """Complete an object's schema by the fields that it knows and does not do, in place."""
    for field, rule in rules.items():
        if not isinstance(rule, Spelling):
            properties.setdefault(field, _schema(rule))


def without_mapping(field: dict[str, Any]) -> None:
    """Take the types away by which an array's items are told apart, in place: others are taken too."""
    arrays = (each for each in (field, *field.get("anyOf", ())) if each.get("type") == "array")
    for array in arrays:
        array["items"].pop("discriminator", None)


def _write_rules(schemas: dict[str, Any]) -> None:
    _, found = msgspec.json.schema_components([ReasoningWishes], ref_template="#/components/schemas/{name}")
    spellings = found.pop(ReasoningWishes.__name__)["properties"]
    schemas |= found
    for name, rules in RULES.items():
        properties = schemas[name]["properties"]
        for field, rule in rules.items():
            properties.setdefault(field, spellings[field] if isinstance(rule, Spelling) else _schema(rule))


def _schema(rule: NotDone | Ignored) -> dict[str, Any]:
    if isinstance(rule, NotDone):
        return {"enum": [None, *rule.neutral], "description": f"Not supported: {rule.why}."}
    return {"description": f"Ignored: {rule.why}."}


def _array(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in schema["anyOf"] if each.get("type") == "array")
    return found
