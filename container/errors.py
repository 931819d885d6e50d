"""Every way a request can end badly, and what a client sees of it.

    ServiceError                      status  OpenAI type             TGI error_type
    ├── InvalidRequest                  400   invalid_request_error   validation (422)
    │   ├── MalformedBody               400   invalid_request_error   text/plain (400)
    │   ├── WrongShape                  400   invalid_request_error   text/plain (422)
    │   └── ContextLengthExceeded       400   invalid_request_error   validation (422)
    ├── Unauthorized                    401   authentication_error    unauthorized
    ├── NotFound                        404   not_found_error         not_found
    ├── MethodNotAllowed                405   invalid_request_error   method_not_allowed
    ├── RequestTimeout                  408   invalid_request_error   text/plain
    ├── PayloadTooLarge                 413   invalid_request_error   text/plain
    ├── UnsupportedMediaType            415   invalid_request_error   text/plain
    ├── Overloaded                      429   rate_limit_error        overloaded         + Retry-After
    ├── NotReady                        503   service_unavailable     unhealthy          + Retry-After
    ├── OutOfMemory                     503   service_unavailable     overloaded         + Retry-After
    ├── DeadlineExceeded                504   timeout                 timeout
    ├── GenerationFailed                500   internal_error          generation (424)
    ├── IncompleteGeneration            500   internal_error          incomplete_generation
    └── InternalError                   500   internal_error          internal

A message is one sentence made of constants and checked values: never a traceback, a path or an address.
"""

from __future__ import annotations

from typing import Any, ClassVar

from handler.seam.protocol import ErrorCode, Failed, Rejected


class ServiceError(Exception):
    """Base of everything a client may be told."""

    status: ClassVar[int] = 500
    tgi_status: ClassVar[int] = 500
    openai_type: ClassVar[str] = "internal_error"
    tgi_type: ClassVar[str] = "internal"
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def openai_body(self) -> dict[str, Any]:
        """The body OpenAI's clients understand."""
        return {
            "error": {
                "message": self.message,
                "type": self.openai_type,
                "param": self.param,
                "code": self.code,
            }
        }

    def tgi_body(self) -> dict[str, Any]:
        """The body TGI's clients understand."""
        return {"error": self.message, "error_type": self.tgi_type}

    def tgi_text(self) -> str | None:
        """The text/plain body TGI's web framework answers with before TGI itself sees the request; None: JSON."""
        return None


class InvalidRequest(ServiceError):
    """A field has a value that is not allowed; the message names field, limit and value."""

    status = 400
    tgi_status = 422
    openai_type = "invalid_request_error"
    tgi_type = "validation"
    code = "invalid_value"

    def tgi_body(self) -> dict[str, Any]:
        """TGI's prefix, which its clients match on."""
        return {"error": f"Input validation error: {self.message}", "error_type": self.tgi_type}


class MalformedBody(InvalidRequest):
    """The body is not JSON."""

    tgi_status = 400
    code = "invalid_json"

    def tgi_text(self) -> str:
        """axum's words for a JSON syntax error."""
        return self.message


class WrongShape(InvalidRequest):
    """The body is JSON, but not of the form the route takes."""

    code = "invalid_type"

    def tgi_text(self) -> str:
        """axum's words for a JSON data error."""
        return f"Failed to deserialize the JSON body into the target type: {self.message}"


class ContextLengthExceeded(InvalidRequest):
    """Prompt, or prompt and completion together, exceed what the model or the server takes."""

    code = "context_length_exceeded"


class EmptyInstances(InvalidRequest):
    """A /vertex request without instances; TGI says no more than this, twice."""

    def __init__(self) -> None:
        super().__init__("`instances` cannot be empty", param="instances")

    def tgi_body(self) -> dict[str, Any]:
        """router/src/vertex.rs."""
        return {"error": "Input validation error", "error_type": "Input validation error"}


class TemplateFailed(InvalidRequest):
    """The model's chat template refuses these messages."""

    tgi_type = "template_error"
    code = "template_error"

    def tgi_body(self) -> dict[str, Any]:
        """TGI's prefix for templates."""
        return {"error": f"Template error: {self.message}", "error_type": self.tgi_type}


class SessionUnknown(InvalidRequest):
    """A SageMaker session that was never opened here, was closed or has ended."""

    tgi_status = 400
    code = "session_not_found"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id[:80]!r} is not open; open one with the session id NEW_SESSION")


class Unauthorized(ServiceError):
    """The API key is missing or wrong."""

    status = tgi_status = 401
    openai_type = "authentication_error"
    tgi_type = "unauthorized"
    code = "invalid_api_key"


class NotFound(ServiceError):
    """There is no such route or model."""

    status = tgi_status = 404
    openai_type = "not_found_error"
    tgi_type = "not_found"
    code = "not_found"


class MethodNotAllowed(ServiceError):
    """The route exists for another method."""

    status = tgi_status = 405
    openai_type = "invalid_request_error"
    tgi_type = "method_not_allowed"
    code = "method_not_allowed"


class RequestTimeout(ServiceError):
    """The body did not come in time."""

    status = tgi_status = 408
    openai_type = "invalid_request_error"
    tgi_type = "request_timeout"
    code = "request_timeout"

    def __init__(self) -> None:
        super().__init__("the request body was not sent in time")

    def tgi_text(self) -> str:
        """As other errors of reading a body."""
        return self.message


class PayloadTooLarge(ServiceError):
    """The body is longer than the limit."""

    status = tgi_status = 413
    openai_type = "invalid_request_error"
    tgi_type = "payload_too_large"
    code = "payload_too_large"

    def tgi_text(self) -> str:
        """axum's words; they name no limit."""
        return "Failed to buffer the request body: length limit exceeded"


class UnsupportedMediaType(ServiceError):
    """The body is not declared as JSON."""

    status = tgi_status = 415
    openai_type = "invalid_request_error"
    tgi_type = "unsupported_media_type"
    code = "unsupported_media_type"

    def tgi_text(self) -> str:
        """axum's words."""
        return self.message


class Overloaded(ServiceError):
    """The queue is full; the server is healthy and will have room again."""

    status = tgi_status = 429
    openai_type = "rate_limit_error"
    tgi_type = "overloaded"
    code = "overloaded"


class NotReady(ServiceError):
    """The engine is loading, restarting or draining."""

    status = tgi_status = 503
    openai_type = "service_unavailable"
    tgi_type = "unhealthy"
    code = "not_ready"


class OutOfMemory(ServiceError):
    """The newest requests give way when memory runs out; the server lives and may have room for it later."""

    status = tgi_status = 503
    openai_type = "service_unavailable"
    tgi_type = "overloaded"
    code = "out_of_memory"


class DeadlineExceeded(ServiceError):
    """The request's time was used up."""

    status = tgi_status = 504
    openai_type = "timeout"
    tgi_type = "timeout"
    code = "deadline_exceeded"


class GenerationFailed(ServiceError):
    """The engine gave up on this one request."""

    tgi_status = 424
    tgi_type = "generation"
    code = "generation_failed"

    def tgi_body(self) -> dict[str, Any]:
        """TGI's prefix for failures after the request was accepted."""
        return {"error": f"Request failed during generation: {self.message}", "error_type": self.tgi_type}


class IncompleteGeneration(ServiceError):
    """The engine ended the answer without a reason to end it."""

    tgi_type = "incomplete_generation"
    code = "incomplete_generation"

    def __init__(self) -> None:
        super().__init__("Incomplete generation")


class InternalError(ServiceError):
    """A fault of ours. The detail is in the log, under the request id."""

    def __init__(self) -> None:
        super().__init__("internal error")


_FROM_ENGINE: dict[ErrorCode, type[ServiceError]] = {
    ErrorCode.OVERLOADED: Overloaded,
    ErrorCode.DRAINING: NotReady,
    ErrorCode.INVALID: InvalidRequest,
    ErrorCode.DEADLINE: DeadlineExceeded,
    ErrorCode.ENGINE_DEAD: NotReady,
    ErrorCode.OUT_OF_MEMORY: OutOfMemory,
}


def from_engine(message: Rejected | Failed) -> ServiceError:
    """The error a terminal message of the engine stands for."""
    kind = _FROM_ENGINE.get(message.code, GenerationFailed)
    retry_after_s = 1 if kind in {Overloaded, NotReady, OutOfMemory} else None
    return kind(message.message, retry_after_s=retry_after_s)
