"""The log of the hook process: lines that a hook prints, logs or warns become records with the request's id."""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import sys
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, TextIO

logger = logging.getLogger(__name__)

# The id of the request that runs in this context, None outside of one. Threads and tasks of a call inherit it.
request_id: ContextVar[str | None] = ContextVar("hook_request_id", default=None)
# A longer line is cut into several: handler.seam.logs drops what a message has beyond 2000 characters.
_MAX_LINE = 2000
# Packages whose lines a hook's own settings of logging must not silence.
_OURS = ("container", "handler")


class RequestIds(logging.Filter):
    """Adds the id of the running request to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        found = request_id.get()
        if found is not None:
            fields = getattr(record, "fields", None)
            record.fields = {"request_id": found, **(fields if isinstance(fields, dict) else {})}
        return True


class LogStream(io.TextIOBase):
    """Stands for stdout or stderr: a record for each line. Requests that print at once do not mix their lines.

    Records go to the handlers, past all loggers: what a hook does to these neither hides a line nor brings it back.
    """

    def __init__(self, name: str, handlers: Sequence[logging.Handler], real: TextIO | None) -> None:
        """`name` is the records' target; `real` is the stream of the process."""
        self._name = name
        self._handlers = tuple(handlers)
        self._real = real
        self._buffer = _Bytes(self)
        self._logging = threading.local()
        # Unfinished lines, by request.
        self._started: dict[str | None, str] = {}

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As a terminal's; print() asks."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Whatever is written can be logged."""
        return "backslashreplace"

    @property
    def buffer(self) -> io.BufferedIOBase:
        """Takes bytes of UTF-8."""
        return self._buffer

    def reconfigure(
        self,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        line_buffering: bool | None = None,
        write_through: bool | None = None,
    ) -> None:
        """Nothing to change: any text can be written, and each line is logged at once."""

    def fileno(self) -> int:
        """The real stream's, for child processes and faulthandler: what these write has no form and no request's id."""
        if self._real is None:
            raise io.UnsupportedOperation("fileno")
        return self._real.fileno()

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str, /) -> int:
        """Log each line that `text` completes; keep the rest until it is complete, or `end` is called."""
        key = request_id.get()
        whole = self._started.pop(key, "") + text
        *lines, rest = whole.replace("\r", "\n").split("\n")
        for line in lines:
            self._log(line)
        while len(rest) > _MAX_LINE:
            self._log(rest[:_MAX_LINE])
            rest = rest[_MAX_LINE:]
        if rest:
            self._started[key] = rest
        return len(text)

    def end(self) -> None:
        """The request of this context has ended: log its unfinished line."""
        self._buffer.end()
        rest = self._started.pop(request_id.get(), "")
        if rest:
            self._log(rest)

    def _log(self, line: str) -> None:
        if not line.strip():
            return
        # A handler that fails writes its traceback to stderr, which is such a stream: it must not be logged again.
        if getattr(self._logging, "now", False):
            self._write_raw(line)
            return
        self._logging.now = True
        try:
            for start in range(0, len(line), _MAX_LINE):
                args = (line[start : start + _MAX_LINE],)
                record = logging.LogRecord(self._name, logging.INFO, __file__, 0, "%s", args, None)
                for handler in self._handlers:
                    handler.handle(record)
        finally:
            self._logging.now = False

    def _write_raw(self, line: str) -> None:
        # Nobody is left to tell.
        with contextlib.suppress(OSError, ValueError):
            if self._real is not None:
                self._real.write(line + "\n")


class _Bytes(io.BufferedIOBase):
    """`buffer` of a LogStream. Characters whose bytes come in several writes are kept whole, by request."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream
        self._decoders: dict[str | None, codecs.IncrementalDecoder] = {}

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any, /) -> int:
        """Write any object that holds bytes; returns their number."""
        decoder = self._decoders.setdefault(request_id.get(), codecs.getincrementaldecoder("utf-8")("replace"))
        raw = bytes(memoryview(data))
        self._stream.write(decoder.decode(raw))
        return len(raw)

    def end(self) -> None:
        """The request of this context has ended."""
        decoder = self._decoders.pop(request_id.get(), None)
        rest = "" if decoder is None else decoder.decode(b"", final=True)
        if rest:
            self._stream.write(rest)


def capture_output() -> None:
    """Send print() and stderr of this process to the log, whose handlers keep the real stderr."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    for handler in handlers:
        handler.addFilter(RequestIds())
    shown = handlers if root.isEnabledFor(logging.INFO) else []
    sys.stdout = LogStream("hook.stdout", shown, sys.stdout)
    sys.stderr = LogStream("hook.stderr", shown, sys.stderr)
    threading.excepthook = _log_thread


def _log_thread(failed: threading.ExceptHookArgs) -> None:
    """One record for a thread of the hook's own that ends by an exception; sys.exit() ends it in silence."""
    if failed.exc_type is not SystemExit:
        name = "of the hook" if failed.thread is None else failed.thread.name
        logger.error("a thread of the hook's code failed: %s", name, exc_info=failed.exc_value)


def end_lines() -> None:
    """Log what the request of this context has printed without a line break."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LogStream):
            stream.end()


def keep_own_loggers() -> None:
    """Undo what logging.config.dictConfig() of the hook did to loggers of this server: it disables those it finds."""
    for name, logger in tuple(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _OURS:
            logger.disabled = False
