"""The Flask application: dialects, the API key, and the one place where exceptions become responses."""

from __future__ import annotations

import hashlib
import hmac
import logging
from functools import partial

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed
from werkzeug.exceptions import NotFound as WerkzeugNotFound

from container.api import documents, playground
from container.api.absent_routes import absent_route
from container.api.dialect import Dialect, all_dialects, dialect_of_route
from container.api.operation import Operation, operation_of
from container.api.server import health, metrics_page
from container.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    Unauthorized,
)
from container.generation.generation import ClientDisconnected
from container.monitoring.request_record import DROPPED, RequestRecord, find_record
from container.monitoring.tracing.sender import SpanSender
from container.run_dir import RunDir
from container.serving.served_model import ServedModel
from container.serving.service import Service
from container.settings import Settings
from container.web.api_key import given_keys

logger = logging.getLogger(__name__)

# What browsers may send: clients have many headers of their own (`x-stainless-os`). "*" does not hold for
# `authorization`.
_HEADERS = "*, authorization"
_METHODS = "GET, POST, DELETE"
_PAGES = (documents.blueprint, documents.pages, playground.blueprint)
_CLIENT_CLOSED_REQUEST = 499  # nginx's status for the log; the client has gone


def create_app(settings: Settings, run_dir: RunDir) -> Flask:
    """The application of one worker, made after the fork; `run_dir` leads to the engines."""
    app = Flask("container", static_folder=None)
    app.url_map.strict_slashes = False
    dialects = app.extensions["dialects"] = all_dialects()
    app.extensions["service"] = Service(settings, run_dir, partial(_about, dialects))
    spans = SpanSender(run_dir.spans, reads_parent=settings.reads_traceparent) if settings.traced else None
    app.extensions["spans"] = spans
    routes = (blueprint for dialect in dialects.values() for blueprint in dialect.blueprints)
    for blueprint in (health.blueprint, metrics_page.blueprint, *routes, *_PAGES):
        app.register_blueprint(blueprint)
    _add_route(app, settings.health_route, "health.health", "GET")
    _add_route(app, settings.predict_route, "tgi_vertex.vertex", "POST")
    app.register_error_handler(Exception, _on_error)
    app.before_request(_open_record)
    app.before_request(_ApiKey(settings.api_key))
    # Flask runs these last to first.
    app.after_request(_finish_record)
    app.after_request(_Cors(settings.cors_allow_origin))
    return app


def _about(dialects: dict[str, Dialect], served: ServedModel) -> str:
    return "; ".join(dialect.about(served) for dialect in dialects.values() if dialect.about is not None)


def _add_route(app: Flask, path: str, endpoint: str, method: str) -> None:
    """Serve `endpoint` at `path` too, if a path is given and no route has it: Vertex AI may be told any of ours."""
    taken = {rule.rule for rule in app.url_map.iter_rules() if method in (rule.methods or ())}
    if path and path not in taken:
        app.add_url_rule(path, endpoint, methods=[method])


def _operation() -> Operation | None:
    """The operation of the current request's route, None if there is no such route."""
    return operation_of(current_app.view_functions.get(request.endpoint or ""))


def _dialects() -> dict[str, Dialect]:
    found: dict[str, Dialect] = current_app.extensions["dialects"]
    return found


def _open_record() -> None:
    operation = _operation()
    g.record = RequestRecord(
        request,
        dialect=dialect_of_route(_dialects(), request.blueprint, request.path).name,
        generates=operation is not None and operation.generates,
        spans=current_app.extensions["spans"],
    )


def _finish_record(response: Response) -> Response:
    record = find_record()
    if record is not None:
        record.show_ids(response, _dialects()[record.dialect].id_header)
        response.call_on_close(lambda: record.close(response))
    return response


class _ApiKey:
    """Refuses requests without the key, except on routes that need none (`Operation.keyed`)."""

    def __init__(self, keys: str | None) -> None:
        """`keys` are separated by commas; each of them is valid."""
        self._digests = [_digest(key.strip()) for key in (keys or "").split(",") if key.strip()]

    def __call__(self) -> None:
        if not self._digests or request.method == "OPTIONS":
            return
        operation = _operation()
        if operation is not None and not operation.keyed:
            return
        found = [_digest(key.strip()) for key in given_keys(request)]
        # Compare with all keys, so that the time reveals nothing.
        if not sum(hmac.compare_digest(one, digest) for one in found for digest in self._digests):
            raise Unauthorized("missing or wrong API key; send `Authorization: Bearer <API_KEY>` or `x-api-key`")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class _Cors:
    """Allows any origin with "*", else the caller's if it is listed: browsers accept one origin, not a list."""

    def __init__(self, origins: str) -> None:
        self._origins = [origin.strip() for origin in origins.split(",")]

    def __call__(self, response: Response) -> Response:
        origin = request.headers.get("Origin", "")
        if "*" in self._origins:
            response.headers["Access-Control-Allow-Origin"] = "*"
        else:
            response.headers.add("Vary", "Origin")
            if origin in self._origins:
                response.headers["Access-Control-Allow-Origin"] = origin
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = _METHODS
            response.headers["Access-Control-Allow-Headers"] = _HEADERS
        return response


def _on_error(exc: Exception) -> Response:
    """Any exception as a response in the request's dialect."""
    record = find_record()
    if isinstance(exc, ClientDisconnected | ConnectionError):
        if record is not None:
            record.fail(DROPPED)
        return Response(status=_CLIENT_CLOSED_REQUEST)
    error = exc if isinstance(exc, ServiceError) else _translate(exc, record)
    if record is not None:
        record.fail(error.outcome)
    return _error_response(error, record)


def _translate(exc: Exception, record: RequestRecord | None) -> ServiceError:
    if isinstance(exc, WerkzeugNotFound):
        return NotFound(absent_route(request.path) or f"there is no route {request.method} {request.path[:200]}")
    if isinstance(exc, WerkzeugMethodNotAllowed):
        return MethodNotAllowed(f"{request.path[:200]} does not take {request.method}")
    if isinstance(exc, HTTPException) and exc.code is not None and exc.code < 500:
        return InvalidRequest(exc.name)
    fields = {} if record is None else {"request_id": record.id}
    logger.exception("unexpected error in %s %s", request.method, request.path, extra={"fields": fields})
    return InternalError()


def _error_response(error: ServiceError, record: RequestRecord | None) -> Response:
    dialects = _dialects()
    dialect = dialect_of_route(dialects, None, request.path) if record is None else dialects[record.dialect]
    response = dialect.error_response(error)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(_allowed_methods()))
    return response


def _allowed_methods() -> list[str]:
    adapter = current_app.create_url_adapter(request)
    return [] if adapter is None else list(adapter.allowed_methods())
