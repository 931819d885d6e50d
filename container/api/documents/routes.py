"""GET /api-doc/openapi.json, and GET /docs: Swagger UI from files of this container, no network needed."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, current_app
from flask_swagger_ui import get_swaggerui_blueprint

from container.api.documents.openapi import build
from container.service import service

DOCUMENT = "/api-doc/openapi.json"

blueprint = Blueprint("documents", __name__)

# validatorUrl: Swagger UI would send the document to a public validator. oauth2RedirectUrl: the package would write
# the Host header into the page.
pages: Blueprint = get_swaggerui_blueprint(
    "/docs",
    DOCUMENT,
    config={"app_name": "API", "validatorUrl": None, "oauth2RedirectUrl": "/docs/oauth2-redirect.html"},
    blueprint_name="pages",
)


@blueprint.get(DOCUMENT)
def openapi() -> Response:
    """The document, made once for each worker."""
    made: bytes | None = current_app.extensions.get("openapi")
    if made is None:
        document = build(current_app._get_current_object(), with_key=service().settings.api_key is not None)  # type: ignore[attr-defined]
        made = current_app.extensions["openapi"] = msgspec.json.encode(document)
    return Response(made, mimetype="application/json")
