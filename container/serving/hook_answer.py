"""An HTTP request that the hook answers: its body as it came, a whole answer or a stream, limits and deadlines."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import msgspec
from flask import Request, Response

from container.errors import (
    DeadlineExceeded,
    HookFailed,
    InternalError,
    NotReady,
    Overloaded,
    ServiceError,
)
from container.generation.generation import ClientDisconnected
from container.hooks.call import Call, Failed, Head, Part, Reason
from container.hooks.client import HookClient, HookReply
from container.hooks.model.caller import NOBODY, Caller
from container.hooks.model.nested import NESTED_HEADERS
from container.monitoring.request_record import DROPPED, RequestRecord
from container.settings import Settings
from container.web.api_key import tenant_of
from container.web.body import read_bytes
from container.web.disconnect import connection_check

# Seconds between looks for a client that has left.
_TICK_S = 0.1
# SageMaker's health check waits 2 s.
_PING_S = 1.5
_SSE = "text/event-stream"
# Ours alone: the length and the form of the body, the connection, the request's id.
_OURS = frozenset({"content-length", "content-type", "transfer-encoding", "connection", "keep-alive", "x-request-id"})
_RETRY_S = 1
_ERRORS: dict[Reason, type[ServiceError]] = {
    Reason.OVERLOADED: Overloaded,
    Reason.NOT_READY: NotReady,
}


def answer_request(
    hook: HookClient,
    request: Request,
    record: RequestRecord,
    settings: Settings,
    choose_adapter: Callable[[HookClient], None],
) -> Response:
    """The hook's answer to `request`. Raises ServiceError.

    `choose_adapter` sets the record's adapter, which is that of the hook's calls of the model, or raises ServiceError.
    """
    record.run_hook()
    body = read_bytes(request, settings.invocations_payload_limit)
    if not hook.board.ready:
        raise NotReady(hook.why_not_ready, retry_after_s=_RETRY_S)
    choose_adapter(hook)
    # A model of the code's own has neither adapters nor prefixes.
    caller = NOBODY if hook.owns_model else Caller(record.adapter or "", tenant_of(request))
    reply = hook.call(lambda call_id: _call(call_id, body, request, record, caller))
    waiting = _Waiting(reply, record, connection_check(request))
    try:
        head = waiting.next(settings.request_timeout_s)
        assert isinstance(head, Head)  # it comes first
    except BaseException:
        reply.close()
        raise
    if head.last:
        reply.close()
        return _response(head, head.body)
    response = _response(head, _parts(head, waiting, settings.stream_timeout_s))
    # A generator that never starts runs no `finally`.
    response.call_on_close(waiting.close)
    return response


def answer_ping(hook: HookClient, request_id: str) -> Response | None:
    """The hook's own answer to /ping; None if it has none in time, fails or streams."""
    reply = hook.call(lambda call_id: Call(call_id, request_id, is_ping=True))
    try:
        head = reply.next(_PING_S)
    finally:
        reply.close()
    return _response(head, head.body) if isinstance(head, Head) and head.last else None


def _call(call_id: str, body: bytes, request: Request, record: RequestRecord, caller: Caller) -> Call:
    return Call(
        call_id,
        record.id,
        body=body,
        content_type=request.headers.get("Content-Type"),
        accept=request.headers.get("Accept"),
        headers=tuple((name.lower(), value) for name, value in request.headers.items() if not _is_nesting(name)),
        query=tuple(request.args.items(multi=True)),
        caller=caller,
    )


def _is_nesting(name: str) -> bool:
    """Whether a client pretends to be the hook."""
    return name.lower() in NESTED_HEADERS


class _Waiting:
    """Waits for a call's messages; sees at each tick whether the client is there and time is left."""

    def __init__(self, reply: HookReply, record: RequestRecord, is_connected: Callable[[], bool]) -> None:
        self.reply = reply
        self.record = record
        self._is_connected = is_connected

    def next(self, limit_s: float) -> Head | Part:
        """The next message. `limit_s` counts from the request's arrival.

        Raises ServiceError for a failed call and for one whose time is used up, ClientDisconnected.
        """
        while True:
            message = self.reply.next(max(0.001, min(_TICK_S, limit_s - self.record.elapsed_s)))
            if isinstance(message, Failed):
                raise _error(message)
            if message is not None:
                return message
            if not self._is_connected():
                self.record.fail(DROPPED)
                raise ClientDisconnected
            if self.record.elapsed_s >= limit_s:
                raise DeadlineExceeded(f"the hook did not answer within {limit_s:g} s")

    def close(self) -> None:
        """The stream is over. If the hook has not ended it, its client has left."""
        if not self.reply.finished:
            self.record.fail(DROPPED)
        self.reply.close()


def _parts(head: Head, waiting: _Waiting, limit_s: float) -> Iterator[bytes]:
    """The rest of a streamed body.

    An error within it is an event where the hook sends events. Else the body breaks off, which chunked bodies show.
    """
    try:
        if head.body:
            yield head.body
        while True:
            part = waiting.next(limit_s)
            if part.body:
                yield part.body
            if part.last:
                return
    except ClientDisconnected:
        return
    except ServiceError as exc:
        waiting.record.fail(exc.outcome)
        if (head.content_type or "").partition(";")[0].strip().lower() != _SSE:
            raise ConnectionResetError(errno.ECONNRESET, "the hook's stream broke off") from exc
        yield b"data: " + msgspec.json.encode({"error": exc.message, "error_type": exc.outcome}) + b"\n\n"
    finally:
        waiting.close()


def _error(failed: Failed) -> ServiceError:
    if failed.reason is Reason.HOOK:
        return HookFailed(failed.message, failed.status, failed.retry_after_s)
    # Memory too: the same request would use it up again, and clients of TGI send again what is "overloaded".
    if failed.reason in {Reason.INTERNAL, Reason.OUT_OF_MEMORY}:
        return HookFailed(failed.message, InternalError.status)
    return _ERRORS[failed.reason](failed.message, retry_after_s=_RETRY_S)


def _response(head: Head, body: bytes | Iterator[bytes]) -> Response:
    response = Response(body, status=head.status)
    # Flask names a type of its own.
    del response.headers["Content-Type"]
    if head.content_type is not None:
        response.headers["Content-Type"] = head.content_type
    for name, value in head.headers:
        if name.lower() not in _OURS:
            response.headers.add(name, value)
    return response
