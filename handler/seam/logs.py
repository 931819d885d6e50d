"""The log of all three kinds of process: a line of JSON for each record, or text for people. Standard library only.

A line of JSON holds TGI's keys `timestamp`, `level`, `target` and `message` (router/src/logging.rs, flattened), then
`process` and `pid`, then the fields a caller adds with `extra={"fields": {...}}`, then `exception`. Whatever a client
wrote stays inside its line: control characters are escaped in both forms, and messages are cut.
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
    """Write everything this process logs to stderr. `as_json` None: unless stderr is a terminal.

    `process` is `main`, `web` or `engine`. May be called again, to change level or form.
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
    """`text` on one line, with whatever could forge another line or garble a terminal spelt out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


class _Handler(logging.StreamHandler[Any]):
    """Told apart from those of libraries and test tools."""


class JsonFormatter(logging.Formatter):
    """One JSON object a record, in ASCII."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Without a line break."""
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
    """Time, level, process, message, `field=value`; the lines of a traceback are indented below."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line but for tracebacks, whose lines no message can imitate."""
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
