"""This server's limits in the OpenAPI document's schemas of TGI's requests."""

from __future__ import annotations

from typing import Any

from container.serving.served_model import ServedModel
from container.settings import Settings


def write_limits(schemas: dict[str, Any], settings: Settings, served: ServedModel) -> None:
    """Tighten `schemas`, the document's components, in place."""
    properties = schemas["GenerateParameters"]["properties"]
    properties["best_of"]["maximum"] = settings.max_best_of
    properties["stop"]["maxItems"] = settings.max_stop_sequences
    properties["top_n_tokens"]["maximum"] = settings.max_top_n_tokens
    properties["truncate"]["maximum"] = served.max_input_tokens
