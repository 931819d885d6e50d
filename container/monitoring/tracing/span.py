"""A finished span on its way from a web worker to the exporter process: one msgpack frame."""

from __future__ import annotations

import msgspec

Value = str | int | float | bool | list[str]


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A phase that ended at `at_ns`, nanoseconds since the epoch, after `seconds`."""

    name: str
    at_ns: int
    seconds: float


class Span(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One request. Ids are lower-case hexadecimal, 32 digits of a trace, 16 of a span; times nanoseconds since 1970.

    `parent_id` is "" for the root of a trace; `parent_flags` and `trace_state` are the caller's, 0 and "" without one.
    `error` is the kind of a failure, "" if there was none.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    parent_flags: int
    trace_state: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    events: list[Event]
    error: str = ""


_decoder = msgspec.msgpack.Decoder(Span)
_encoder = msgspec.msgpack.Encoder()


def encode(span: Span) -> bytes:
    """One frame."""
    return _encoder.encode(span)


def decode(frame: bytes) -> Span:
    """The span of a frame. Raises ValueError for anything else."""
    return _decoder.decode(frame)
