"""What a caller may name a request by: `X-Request-Id` and W3C's `traceparent`. Both are shown, neither is a key."""

from __future__ import annotations

import re
from dataclasses import dataclass

REQUEST_ID = "X-Request-Id"
TRACEPARENT = "traceparent"

_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: later versions may only append.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.{0,64})?")


@dataclass(frozen=True, slots=True)
class Trace:
    """A valid `traceparent`, and what it says."""

    header: str
    trace_id: str
    parent_id: str


def client_id(header: str | None) -> str | None:
    """The caller's own id: 1 to 128 printable ASCII characters without spaces; None for anything else."""
    return header if header is not None and _CLIENT_ID.fullmatch(header) else None


def trace_of(header: str | None) -> Trace | None:
    """None if there is no header or it is not valid; the standard says to act as if there were none then."""
    found = _TRACEPARENT.fullmatch(header or "")
    return None if found is None or not found[0].isprintable() else Trace(found[0], found[1], found[2])
