"""The log of the hook process: lines that a hook prints, logs or warns become records with the request's id."""

from __future__ import annotations

import io
import logging
import sys
from contextvars import ContextVar

# The id of the request that runs in this context, None outside of one. Threads and tasks of a call inherit it.
request_id: ContextVar[str | None] = ContextVar("hook_request_id", default=None)
# A line that grows longer is cut into several.
_MAX_LINE = 8192


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
    """Stands for stdout or stderr: a record for each line. Requests that print at once do not mix their lines."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        # Unfinished lines, by request.
        self._started: dict[str | None, str] = {}

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As a terminal's; print() asks."""
        return "utf-8"

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
        rest = self._started.pop(request_id.get(), "")
        if rest:
            self._log(rest)

    def _log(self, line: str) -> None:
        if line.strip():
            self._logger.info("%s", line)


def capture_output() -> None:
    """Send print() and stderr of this process to the log, whose handlers keep the real stderr."""
    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(RequestIds())
    # Handlers that the hook adds to the root logger may write to these streams: their lines must not come back.
    for name in ("hook.stdout", "hook.stderr"):
        logging.getLogger(name).handlers = list(handlers)
        logging.getLogger(name).propagate = False
    sys.stdout = LogStream("hook.stdout")
    sys.stderr = LogStream("hook.stderr")


def end_lines() -> None:
    """Log what the request of this context has printed without a line break."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LogStream):
            stream.end()
