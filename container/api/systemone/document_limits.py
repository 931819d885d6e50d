"""The fields that are not done, in the OpenAPI document's schema of a System One request."""

from __future__ import annotations

from typing import Any

from container.api.openai.document_limits import write_rules
from container.api.systemone.request import SystemOneRequest
from container.serving.served_model import ServedModel
from container.settings import Settings


def write_limits(schemas: dict[str, Any], _settings: Settings, _served: ServedModel) -> None:
    """Complete `schemas`, the document's components, in place."""
    write_rules(schemas[SystemOneRequest.__name__]["properties"], SystemOneRequest.foreign)
