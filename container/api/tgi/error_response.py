"""An error as TGI's clients expect it (`InferError` in `router/src/infer/mod.rs` of TGI v3.3.7).

TGI's web framework, axum, refuses some bodies before TGI itself sees the request; those answers are text/plain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from flask import Response

from container.errors import (
    GenerationFailed,
    IncompleteGeneration,
    InvalidRequest,
    MalformedBody,
    PayloadTooLarge,
    RequestTimeout,
    ServiceError,
    SessionRefused,
    TemplateFailed,
    UnsupportedMediaType,
    WrongShape,
)
from container.web.responses import json_response

T = TypeVar("T")

# Error statuses of routes with a body. Those in SHAPE_ERRORS come as text/plain, 422 also as JSON.
SHAPE_ERRORS = (400, 413, 415, 422)
READ_ERRORS = (*SHAPE_ERRORS, 503)
GENERATE_ERRORS = (*SHAPE_ERRORS, 424, 429, 500, 503, 504)


class EmptyInstances(InvalidRequest):
    """A /vertex request without instances; TGI's body repeats the same three words (`router/src/vertex.rs`)."""

    def __init__(self) -> None:
        super().__init__("`instances` cannot be empty", param="instances")


# An error uses the entry of its nearest base class, else its attribute in container/errors.py.
_STATUSES = {InvalidRequest: 422, MalformedBody: 400, SessionRefused: 400, GenerationFailed: 424}
_ERROR_TYPES = {
    EmptyInstances: "Input validation error",
    TemplateFailed: "template_error",
    IncompleteGeneration: "incomplete_generation",
}
_SENTENCES = {
    InvalidRequest: "Input validation error: {}",
    EmptyInstances: "Input validation error",
    TemplateFailed: "Template error: {}",
    GenerationFailed: "Request failed during generation: {}",
}
_TEXTS = {
    MalformedBody: "{}",
    WrongShape: "Failed to deserialize the JSON body into the target type: {}",
    RequestTimeout: "{}",
    PayloadTooLarge: "Failed to buffer the request body: length limit exceeded",
    UnsupportedMediaType: "{}",
}


def error_response(error: ServiceError) -> Response:
    """text/plain for the errors axum answers, else JSON."""
    status = _nearest(_STATUSES, error, error.status)
    text = _nearest(_TEXTS, error, None)
    if text is not None:
        return Response(text.format(error.message), status=status, mimetype="text/plain")
    return json_response(error_body(error), status)


def error_body(error: ServiceError) -> dict[str, Any]:
    """The JSON body, which is also the last event of a stream that fails."""
    return {
        "error": _nearest(_SENTENCES, error, "{}").format(error.message),
        "error_type": _nearest(_ERROR_TYPES, error, error.outcome),
    }


def _nearest(table: Mapping[Any, T], error: ServiceError, default: T) -> T:
    return next((table[kind] for kind in type(error).__mro__ if kind in table), default)
