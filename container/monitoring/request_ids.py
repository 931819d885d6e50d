"""A client's own names for a request: `X-Request-Id` and W3C's `traceparent`. They are shown, never used as keys."""

from __future__ import annotations

import re
from dataclasses import dataclass

REQUEST_ID = "X-Request-Id"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: later versions may only append.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.{0,64})?"
)


@dataclass(frozen=True, slots=True)
class Trace:
    """A valid `traceparent` and its parts; bit 0 of `flags`: the caller records the trace."""

    header: str
    trace_id: str
    parent_id: str
    flags: int


def client_id(header: str | None) -> str | None:
    """The client's id, 1 to 128 printable ASCII characters without spaces; None for anything else."""
    return header if header is not None and _CLIENT_ID.fullmatch(header) else None


def trace_of(header: str | None) -> Trace | None:
    """The trace, None without a header or with an invalid one, which the standard says to ignore."""
    found = _TRACEPARENT.fullmatch(header or "")
    if found is None or not found[0].isprintable():
        return None
    return Trace(found[0], found[1], found[2], int(found[3], 16))
