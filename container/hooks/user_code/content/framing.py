"""How parts of a stream become its bytes: as they are, lines of JSON, or server-sent events."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from container.hooks.user_code.content.accept import EVENT_STREAM, media_type
from container.hooks.user_code.content.encoding import to_json

# A line of an event as HTML's standard has it, section 9.2.5: a field, or a comment.
_FIELD = re.compile(r"(?:data|event|id|retry)?:")
_FIELD_BYTES = re.compile(_FIELD.pattern.encode())
_LINE_BREAK = re.compile("\r\n|\r|\n")

Frame = Callable[[Any], bytes]


def framing(content_type: str | None) -> Frame:
    """The framing of a stream of this type; a new one for each stream."""
    return EventFraming() if media_type(content_type or "") == EVENT_STREAM else as_lines


def as_lines(part: Any) -> bytes:
    """Text and bytes go as they are; others become lines of JSON."""
    if isinstance(part, str):
        return part.encode()
    return bytes(part) if isinstance(part, bytes | bytearray) else to_json(part) + b"\n"


class EventFraming:
    """Each part is the data of an event, JSON unless it is text. Bytes go as they are, and text that is events already.

    That holds for a part that is whole events, and for all text if the first has whole lines of one.
    """

    def __init__(self) -> None:
        self._has_own: bool | None = None

    def __call__(self, part: Any) -> bytes:
        """The bytes of a part, whole events if it is no bytes and the code frames none."""
        if isinstance(part, bytes | bytearray):
            return bytes(part)
        if not isinstance(part, str):
            return b"data: " + to_json(part) + b"\n\n"
        is_event = _FIELD.match(part) is not None
        if self._has_own is None:
            self._has_own = is_event and part.endswith("\n")
        if self._has_own or (is_event and part.endswith("\n\n")):
            return part.encode()
        lines = "".join(f"data: {line}\n" for line in _LINE_BREAK.split(part))
        return f"{lines}\n".encode()


def begins_events(part: bytes | bytearray) -> bool:
    """Whether bytes begin as a stream of events does."""
    return _FIELD_BYTES.match(part) is not None
