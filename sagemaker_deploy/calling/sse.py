"""Server-sent events out of a byte stream that was cut anywhere, through lines and through characters."""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")


class SseDecoder:
    """Feed it bytes as they come; it hands back the data of each event that is complete.

    The events are the same however the bytes were cut. Comments, ids and event names are dropped; data of
    several lines is joined with newlines, as the HTML standard has it.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[str]:
        """Return the events that `chunk` completes.

        Raises `UnicodeDecodeError` when a whole line is not UTF-8. A carriage return at the end waits for the
        next bytes, as it may be half of a line end.
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
        """True if an event has begun and not ended."""
        return bool(self._data or self._rest.strip())

    def _take(self, line: bytes) -> None:
        name, _, value = line.decode().partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
