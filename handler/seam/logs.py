"""The log of all three kinds of process: one line of JSON per record, or text for people. Standard library only.

A line of JSON holds TGI's keys `timestamp`, `level`, `target` and `message` (router/src/logging.rs, flattened), then
`process` and `pid`, then the fields a caller adds with `extra={"fields": {...}}`, then `exception`. Client input cannot
forge a record: both forms escape control characters and cut long messages.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

_MAX_MESSAGE = 2000


def configure_logging(process: str, *, level: int, as_json: bool | None = None) -> None:
    """Send the log of this process to stderr, and uncaught exceptions to the log.

    `process` is `main`, `web`, `engine`, `hook` or `traces`. `as_json` None means JSON unless stderr is a terminal. Call it
    again to change level or form.
    """
    wanted = not sys.stderr.isatty() if as_json is None else as_json
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if wanted else TextFormatter(process))
    root = logging.getLogger()
    root.handlers = [*(each for each in root.handlers if not isinstance(each, _Handler)), handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught


def escaped(text: str) -> str:
    """`text` on one line: non-printable characters, which could forge a line or garble a terminal, are escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


class _Handler(logging.StreamHandler[Any]):
    """Our handler; the class distinguishes it from those of libraries and test tools."""


class JsonFormatter(logging.Formatter):
    """One JSON object per record, in ASCII."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON, without a line break."""
        found: dict[str, Any] = {
            "timestamp": f"{_time(record):%Y-%m-%dT%H:%M:%S.%fZ}",
            "level": record.levelname,
            "target": record.name,
            "message": _message(record),
            "process": self._process,
            "pid": record.process,
            **_fields(record),
        }
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, process, message, `field=value`; a traceback follows on indented lines."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line, plus a traceback if there is one; its indentation keeps messages from imitating records."""
        fields = "".join(f" {name}={escaped(str(value))}" for name, value in _fields(record).items())
        line = f"{_time(record):%Y-%m-%d %H:%M:%S} {record.levelname} {self._process}: {escaped(_message(record))}"
        if not record.exc_info:
            return line + fields
        trace = self.formatException(record.exc_info).split("\n")
        return "\n".join([line + fields, *(f"    {escaped(each)}" for each in trace)])


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}… ({len(text)} characters)"


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return getattr(record, "fields", {})


def _log_uncaught(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("uncaught").critical("the process ends", exc_info=(kind, value, trace))
