"""GET /api-doc/openapi.json, and GET /docs: Swagger UI from files of this container, no network needed."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app
from flask_swagger_ui import get_swaggerui_blueprint

from container.api.documents.openapi import build
from container.api.operation import Operation, describe
from container.hooks.client import HookClient
from container.serving.service import service
from container.web.responses import json_response

DOCUMENT = "/api-doc/openapi.json"

blueprint = Blueprint("documents", __name__)

# validatorUrl: Swagger UI would send the document to a public validator. oauth2RedirectUrl: the package would copy the
# Host header into the page.
pages: Blueprint = get_swaggerui_blueprint(
    "/docs",
    DOCUMENT,
    config={"app_name": "API", "validatorUrl": None, "oauth2RedirectUrl": "/docs/oauth2-redirect.html"},
    blueprint_name="pages",
)


@blueprint.get(DOCUMENT)
@describe(Operation(tag="Server", summary="This document", answer=dict[str, Any]))
def openapi() -> Response:
    """The document. Limits that come from the model are added once it is loaded; that document is kept."""
    extensions = current_app.extensions
    if "openapi" not in extensions:
        document = build(current_app, with_key=service().settings.api_key is not None, hooked=_hooked(service().hook))
        if not service().ready or not service().has_engine:
            return json_response(document)
        for dialect in extensions["dialects"].values():
            dialect.write_limits(document["components"]["schemas"], service().settings, service().model)
        extensions["openapi"] = document
    return json_response(extensions["openapi"])


def _hooked(hook: HookClient | None) -> tuple[str, ...]:
    """Paths whose POST the user's code answers."""
    if hook is None:
        return ()
    return ("/invocations", "/", "/predict") if hook.takes_predict else ("/invocations",)
