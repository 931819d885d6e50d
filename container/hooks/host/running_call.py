"""A call that runs: its way back to the worker, how many parts it may send ahead, and whether anybody waits for it."""

from __future__ import annotations

import logging
import operator
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from container.hooks.call import PART_BYTES, WINDOW, Call, Failed, FromHost, Head, Part, Reason
from container.hooks.model.errors import CallEnded
from container.hooks.model.open_calls import OpenCalls
from container.hooks.user_code.hook import HookAnswer, HookError, HookRequest

logger = logging.getLogger(__name__)

# RFC 9110, sections 5.1 and 5.5: a token, and a field value as gunicorn sends it.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Aborted(Exception):
    """Nobody waits for the answer any more."""


class RunningCall:
    """One call. The main thread grants credit and aborts; the thread or the task that runs the hook sends.

    A call sends one terminal message, or none if it was aborted.
    """

    def __init__(self, call: Call, send: Callable[[FromHost], None]) -> None:
        self.call = call
        self.open_calls = OpenCalls()
        self.on_change: Callable[[], object] = lambda: None
        self._send = send
        self._begun = False
        self._credit = WINDOW
        self._changed = threading.Condition()

    @property
    def aborted_s(self) -> float | None:
        """When it was aborted, of time.monotonic(); None: somebody waits."""
        return self.open_calls.ended_s

    @property
    def request(self) -> HookRequest:
        """What the hook gets."""
        call = self.call
        return HookRequest(
            request_id=call.request_id,
            body=call.body,
            content_type=call.content_type,
            accept=call.accept,
            headers=call.headers,
            query=call.query,
        )

    @property
    def may_send(self) -> bool:
        """Whether a part may be sent now. Raises Aborted."""
        if self.aborted_s is not None:
            raise Aborted
        return self._credit > 0

    def grant(self, num_parts: int) -> None:
        """The worker has handed on `num_parts`."""
        with self._changed:
            self._credit += num_parts
            self._changed.notify_all()
        self.on_change()

    def begin(self) -> bool:
        """Called before the hook is. False if the call was aborted before, so that it never runs."""
        with self._changed:
            self._begun = self.aborted_s is None
            return self._begun

    def abort(self) -> bool:
        """Nobody waits any more. What the hook asks of the model ends, what it computes is dropped.

        Returns whether the call had begun, so that it may go on.
        """
        with self._changed:
            self.open_calls.end()
            self._changed.notify_all()
            begun = self._begun
        self.on_change()
        return begun

    def wait(self) -> None:
        """Block this thread until a part may be sent. Raises Aborted."""
        with self._changed:
            while not self.may_send:
                self._changed.wait()

    def send_head(self, answer: HookAnswer, body: bytes, *, last: bool) -> None:
        """Send status, headers and the first bytes. Raises Aborted, and HookError for a head that HTTP cannot have."""
        if self.aborted_s is not None:
            raise Aborted
        status, headers = checked_head(answer)
        self._send(Head(self.call.call_id, status, answer.content_type, headers, body, last))

    def send_part(self, body: bytes) -> None:
        """Send a part, at most PART_BYTES long. It uses up one credit."""
        with self._changed:
            self._credit -= 1
        self._send(Part(self.call.call_id, body))

    def send_end(self) -> None:
        """End a streamed body."""
        self._send(Part(self.call.call_id, b"", last=True))

    def fail(self, error: BaseException) -> None:
        """Send the message of what the hook raised, then log why, with the traceback."""
        if _memory_error(error) is not None:
            # The frames hold what the hook has allocated, and the log needs memory too.
            traceback.clear_frames(error.__traceback__)
            traceback.clear_frames(None if error.__cause__ is None else error.__cause__.__traceback__)
        if self.aborted_s is None:
            self._send(failure(self.call.call_id, error))
        if not isinstance(error.__cause__, CallEnded):
            _log(error)


def failure(call_id: str, error: BaseException) -> Failed:
    """The terminal message for what a hook raised.

    sys.exit() in a hook fails its request alone, as any exception does.
    """
    if _memory_error(error) is not None:
        return Failed(call_id, Reason.OUT_OF_MEMORY, "the hook ran out of memory")
    if isinstance(error, HookError):
        # A lone surrogate, which JSON can bring, is in no frame.
        return Failed(
            call_id, Reason.HOOK, error.message.encode(errors="replace").decode(), error.status, error.retry_after_s
        )
    if isinstance(error, SystemExit):
        return Failed(call_id, Reason.HOOK, "the hook called sys.exit()")
    if not isinstance(error, Exception):  # KeyboardInterrupt, GeneratorExit, CancelledError: only a hook raises them
        return Failed(call_id, Reason.HOOK, f"the hook raised {type(error).__name__}")
    return Failed(call_id, Reason.INTERNAL, "the hook failed")


def _memory_error(error: BaseException) -> MemoryError | None:
    return next((each for each in (error, error.__cause__) if isinstance(each, MemoryError)), None)


def _log(error: BaseException) -> None:
    if isinstance(error, HookError):
        cause = error.__cause__
        level = logging.INFO if cause is None else logging.ERROR
        logger.log(level, "the hook answered %d: %s", error.status, error.message, exc_info=cause)
    else:
        logger.error("the hook failed: %s", type(error).__name__, exc_info=error)


def checked_head(answer: HookAnswer) -> tuple[int, tuple[tuple[str, str], ...]]:
    """The answer's status and headers. Raises HookError for what HTTP cannot have; the status may be numpy's."""
    try:
        status = operator.index(answer.status)
    except TypeError:
        status = 0
    if not 200 <= status <= 599:
        raise HookError(400, f"the hook's status must be a whole number from 200 to 599. Given: {answer.status!r:.80}")
    if answer.content_type is not None and not _is_header("content-type", answer.content_type):
        raise HookError(400, f"the hook's content type must be a media type. Given: {answer.content_type!r:.80}")
    for name, value in answer.headers:
        if not _is_header(name, value):
            raise HookError(400, f"the hook's header {name!r:.80} is no header of HTTP")
    return status, answer.headers


def _is_header(name: Any, value: Any) -> bool:
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    return _TOKEN.fullmatch(name) is not None and _FIELD_VALUE.fullmatch(value) is not None


def pieces(body: bytes) -> Iterator[bytes]:
    """`body` in parts that may be sent; none for an empty one, which would end the stream."""
    for start in range(0, len(body), PART_BYTES):
        yield body[start : start + PART_BYTES]
