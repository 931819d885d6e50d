"""The JSON body of TGI's and OpenAI's routes, up to the payload limit."""

from __future__ import annotations

from typing import Any

from flask import request

from container.api.adapters import with_adapter
from container.serving.service import service
from container.web.body import read_json


def read_body(*, several_adapters: bool = False) -> dict[str, Any]:
    """The JSON object of the current request; `several_adapters` is as in `with_adapter`. Raises ServiceError."""
    return with_adapter(read_json(request, service().settings.payload_limit), several=several_adapters)
