"""Server-sent events from a byte stream that may be cut anywhere, inside lines and inside characters."""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")


class SseDecoder:
    """Decodes bytes as they arrive into the data of each complete event.

    The events do not depend on how the bytes are cut. Comments, ids and event names are dropped. Data of several lines
    is joined with newlines, as in the HTML standard.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of the events that `chunk` completes.

        A carriage return at the end waits for the next bytes, because it may be half of a line ending. Raises
        `UnicodeDecodeError` if a complete line is not UTF-8.
        """
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        events = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                events.append("\n".join(self._data))
                self._data = []
        return events

    @property
    def pending(self) -> bool:
        """True if an event is incomplete."""
        return bool(self._data or self._rest.strip())

    def _take(self, line: bytes) -> None:
        name, _, value = line.decode().partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
