"""GET /playground and its files. They hold no secret and need no API key; what they send to other routes does."""

from __future__ import annotations

from flask import Blueprint, Response, request

from container.api.operation import Operation, describe
from container.api.playground.page_file import PageFile, read_page
from container.errors import NotFound
from container.serving.service import service

blueprint = Blueprint("playground", __name__)

_PAGE = "index.html"
_FILES = read_page()
# Nothing runs but these files, nothing is fetched from elsewhere, no text becomes markup, no page frames this one.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        *("script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        *("require-trusted-types-for 'script'", "trusted-types 'none'"),
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@blueprint.get("/playground")
@describe(
    Operation(
        tag="Server",
        summary="A chat in the browser",
        answer=str,
        answer_media_type="text/html",
        errors=(404,),
        keyed=False,
    )
)
def page() -> Response:
    """The page. Its links are relative to a path without a slash at the end, whatever stands before it."""
    _check_on()
    if request.path.endswith("/"):
        return Response(status=308, headers={"Location": "../playground"})
    return _respond(_FILES[_PAGE])


@blueprint.get("/playground/<name>")
@describe(Operation(tag="Server", summary="A file of the page", errors=(404,), keyed=False, listed=False))
def page_file(name: str) -> Response:
    """A script, style or picture of the page. Raises NotFound."""
    _check_on()
    if name == _PAGE or name not in _FILES:
        raise NotFound(f"the playground has no file {name[:200]}")
    return _respond(_FILES[name])


def _check_on() -> None:
    if not service().settings.playground:
        raise NotFound("the playground is switched off on this server (PLAYGROUND=false)")


def _respond(found: PageFile) -> Response:
    response = Response(found.content, content_type=found.media_type, headers=_HEADERS)
    response.set_etag(found.tag)
    response.make_conditional(request)
    return response
