"""A call that runs: its way back to the worker, how many parts it may send ahead, and whether anybody waits for it."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator

from container.hooks.call import PART_BYTES, WINDOW, Call, Failed, FromHost, Head, Part, Reason
from container.hooks.model.errors import CallEnded
from container.hooks.model.open_calls import OpenCalls
from container.hooks.user_code.hook import HookAnswer, HookError, HookRequest

logger = logging.getLogger(__name__)

_LINE_BREAKS = frozenset("\r\n\0")


class Aborted(Exception):
    """Nobody waits for the answer any more."""


class RunningCall:
    """One call. The main thread grants credit and aborts; the thread or the task that runs the hook sends.

    A call sends one terminal message, or none if it was aborted.
    """

    def __init__(self, call: Call, send: Callable[[FromHost], None]) -> None:
        self.call = call
        self.open_calls = OpenCalls()
        self.started = False
        self.on_change: Callable[[], object] = lambda: None
        self._send = send
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

    def abort(self) -> None:
        """Nobody waits any more. What the hook asks of the model ends, what it computes is dropped."""
        with self._changed:
            self.open_calls.end()
            self._changed.notify_all()
        self.on_change()

    def wait(self) -> None:
        """Block this thread until a part may be sent. Raises Aborted."""
        with self._changed:
            while not self.may_send:
                self._changed.wait()

    def send_head(self, answer: HookAnswer, body: bytes, *, last: bool) -> None:
        """Send status, headers and the first bytes. Raises HookError for a head that HTTP cannot have."""
        headers = checked_head(answer)
        self._send(Head(self.call.call_id, answer.status, answer.content_type, headers, body, last))

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


def checked_head(answer: HookAnswer) -> tuple[tuple[str, str], ...]:
    """The answer's headers. Raises HookError for a status or a header that HTTP cannot have."""
    if not 200 <= answer.status <= 599:
        raise HookError(500, f"the hook's status must be from 200 to 599. Given: {answer.status}")
    every = answer.headers if answer.content_type is None else (*answer.headers, ("content-type", answer.content_type))
    for name, value in every:
        if not name or not name.isascii() or not name.isprintable() or _LINE_BREAKS & set(value) or ":" in name:
            raise HookError(500, f"the hook's header {name[:80]!r} is no header of HTTP")
    return answer.headers


def pieces(body: bytes) -> Iterator[bytes]:
    """`body` in parts that may be sent; none for an empty one, which would end the stream."""
    for start in range(0, len(body), PART_BYTES):
        yield body[start : start + PART_BYTES]
