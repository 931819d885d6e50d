"""Every way a request can end badly. Each dialect writes its own bodies from these; a new dialect changes nothing here.

    ServiceError                      status  code                     outcome
    ├── InvalidRequest                  400   invalid_value            validation
    │   ├── MalformedBody               400   invalid_json             validation
    │   ├── WrongShape                  400   invalid_type             validation
    │   ├── ContextLengthExceeded       400   context_length_exceeded  validation
    │   ├── TemplateFailed              400   template_error           template
    │   ├── SessionRefused              400   session_refused          validation
    │   │   └── SessionUnknown          400   session_not_found        validation
    │   ├── AdapterUnknown              404   adapter_not_found        validation
    │   │   └── ModelUnknown            404   model_not_found          validation
    │   ├── AdapterInvalid              400   adapter_invalid          validation
    │   └── EmptyInstances              400   invalid_value            validation             api/tgi/error_response.py
    ├── Unauthorized                    401   invalid_api_key          unauthorized
    ├── NotFound                        404   not_found                not_found
    │   └── NoEngine                    404   no_engine                not_found
    ├── MethodNotAllowed                405   method_not_allowed       method_not_allowed     + Allow
    ├── RequestTimeout                  408   request_timeout          request_timeout
    ├── PayloadTooLarge                 413   payload_too_large        payload_too_large
    ├── UnsupportedMediaType            415   unsupported_media_type   unsupported_media_type
    ├── SessionFailed                   424   session_failed           session
    ├── AdapterFailed                   424   adapter_failed           adapter
    ├── AdaptersFull                    507   adapters_full            adapter
    ├── Overloaded                      429   overloaded               overloaded             + Retry-After
    ├── NotReady                        503   not_ready                unhealthy              + Retry-After
    ├── OutOfMemory                     503   out_of_memory            overloaded             + Retry-After
    ├── DeadlineExceeded                504   deadline_exceeded        timeout
    ├── GenerationFailed                500   generation_failed        generation
    ├── IncompleteGeneration            500   incomplete_generation    incomplete
    ├── HookFailed                      400   hook                     hook                   or its own choice
    └── InternalError                   500   internal                 internal

A client that closes its connection is no error: see `ClientDisconnected` in container/generation/generation.py.

A message is one sentence made of constants and checked values: never a traceback, a path or an address.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from handler.seam.protocol import ErrorCode, Failed, Rejected

# Clients obey Retry-After in full (openai's up to 120 s): a longer one keeps them away from a server that is free.
MAX_RETRY_AFTER_S = 30


class ServiceError(Exception):
    """Base of all errors that a client may see.

    `status` is the HTTP status; a dialect may answer with another. `code` is the error in one word. `outcome` is the
    request's label in the log and in `tgi_request_failure`.
    """

    status: int = 500
    code: ClassVar[str] = "internal"
    outcome: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        steps: Sequence[str | int] = (),
    ) -> None:
        """`param` is the field at fault. `retry_after_s`, 1 to MAX_RETRY_AFTER_S, goes into the Retry-After header.

        `steps` are the keys and indices that lead to `param`, needed where a client chose one of the keys.
        """
        super().__init__(message)
        self.message = message
        self.param = param
        self.steps = steps
        self.retry_after_s = None if retry_after_s is None else min(max(1, retry_after_s), MAX_RETRY_AFTER_S)


class InvalidRequest(ServiceError):
    """A field has a value that is not allowed; the message names field, limit and value."""

    status = 400
    code = "invalid_value"
    outcome = "validation"


class MalformedBody(InvalidRequest):
    """The body is not JSON."""

    code = "invalid_json"


class WrongShape(InvalidRequest):
    """The body is JSON, but not of the form the route takes."""

    code = "invalid_type"


class ContextLengthExceeded(InvalidRequest):
    """Prompt, or prompt and completion together, exceed what the model or the server takes."""

    code = "context_length_exceeded"

    def __init__(
        self, message: str, *, num_tokens: int | None = None, limit: int | None = None, param: str | None = None
    ) -> None:
        """`num_tokens` and `limit` are those of a prompt that is too long by itself."""
        super().__init__(message, param=param)
        self.num_tokens = num_tokens
        self.limit = limit


class TemplateFailed(InvalidRequest):
    """The model's chat template refuses these messages."""

    code = "template_error"
    outcome = "template"


class SessionRefused(InvalidRequest):
    """A call to a SageMaker session that the server does not take."""

    code = "session_refused"


class SessionUnknown(SessionRefused):
    """A SageMaker session that was never opened here, was closed or has expired."""

    code = "session_not_found"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id[:80]!r} is not open; open one with the session id NEW_SESSION")


class AdapterUnknown(InvalidRequest):
    """The request names an adapter that is not registered."""

    status = 404
    code = "adapter_not_found"


class ModelUnknown(AdapterUnknown):
    """`model` names neither the model nor a registered adapter."""

    code = "model_not_found"


class AdapterInvalid(InvalidRequest):
    """A change of adapters that contradicts those that are registered."""

    code = "adapter_invalid"


class Unauthorized(ServiceError):
    """The API key is missing or wrong."""

    status = 401
    code = "invalid_api_key"
    outcome = "unauthorized"


class NotFound(ServiceError):
    """There is no such route or model."""

    status = 404
    code = "not_found"
    outcome = "not_found"


class NoEngine(NotFound):
    """The user's code loads its own model, so no engine runs, and no request but the hook's can be answered."""

    code = "no_engine"

    def __init__(self) -> None:
        super().__init__("this server has no engine: its own code loads the model and answers /invocations alone")


class MethodNotAllowed(ServiceError):
    """The route exists for another method."""

    status = 405
    code = "method_not_allowed"
    outcome = "method_not_allowed"


class RequestTimeout(ServiceError):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"
    outcome = "request_timeout"

    def __init__(self) -> None:
        super().__init__("the request body was not sent in time")


class PayloadTooLarge(ServiceError):
    """The body is longer than the limit."""

    status = 413
    code = "payload_too_large"
    outcome = "payload_too_large"


class UnsupportedMediaType(ServiceError):
    """The body is not declared as JSON."""

    status = 415
    code = "unsupported_media_type"
    outcome = "unsupported_media_type"


class SessionFailed(ServiceError):
    """A SageMaker session could not be opened or closed (AWS's hosting standards)."""

    status = 424
    code = "session_failed"
    outcome = "session"


class AdapterFailed(ServiceError):
    """An adapter cannot be loaded: its files, or the model, do not allow it."""

    status = 424
    code = "adapter_failed"
    outcome = "adapter"


class AdaptersFull(ServiceError):
    """There is no room for one more adapter."""

    status = 507
    code = "adapters_full"
    outcome = "adapter"


class Overloaded(ServiceError):
    """The queue is full; the server is healthy and will have room again."""

    status = 429
    code = "overloaded"
    outcome = "overloaded"


class NotReady(ServiceError):
    """The engine is loading, restarting or draining."""

    status = 503
    code = "not_ready"
    outcome = "unhealthy"


class OutOfMemory(ServiceError):
    """Memory ran out and the newest requests were dropped; a retry may succeed."""

    status = 503
    code = "out_of_memory"
    outcome = "overloaded"


class DeadlineExceeded(ServiceError):
    """The request's time is used up."""

    status = 504
    code = "deadline_exceeded"
    outcome = "timeout"


class GenerationFailed(ServiceError):
    """The engine failed on this one request."""

    code = "generation_failed"
    outcome = "generation"


class IncompleteGeneration(ServiceError):
    """The engine ended the answer without a finish reason."""

    code = "incomplete_generation"
    outcome = "incomplete"

    def __init__(self) -> None:
        super().__init__("Incomplete generation")


class HookFailed(ServiceError):
    """The user's code did not answer the request; the message is its own."""

    status = 400
    code = "hook"
    outcome = "hook"

    def __init__(self, message: str, status: int = 400, retry_after_s: int | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status


class InternalError(ServiceError):
    """A bug of the server. The log has the details, under the request id."""

    def __init__(self) -> None:
        super().__init__("internal error")


# The engine names a field of the request only at the beginning.
_NAMES_A_FIELD = re.compile(r"`([^`]+)` (?:is|must)")
_FROM_ENGINE: dict[ErrorCode, type[ServiceError]] = {
    ErrorCode.OVERLOADED: Overloaded,
    ErrorCode.DRAINING: NotReady,
    ErrorCode.INVALID: InvalidRequest,
    ErrorCode.DEADLINE: DeadlineExceeded,
    ErrorCode.ENGINE_DEAD: NotReady,
    ErrorCode.OUT_OF_MEMORY: OutOfMemory,
    ErrorCode.UNKNOWN_ADAPTER: AdapterUnknown,
}


def from_engine(message: Rejected | Failed) -> ServiceError:
    """The error for a terminal message of the engine."""
    kind = _FROM_ENGINE.get(message.code, GenerationFailed)
    retry_after_s = 1 if kind in {Overloaded, NotReady, OutOfMemory} else None
    named = _NAMES_A_FIELD.match(message.message) if kind is InvalidRequest else None
    return kind(message.message, param=named[1] if named else None, retry_after_s=retry_after_s)
