"""Messages between a web worker and the hook process, one msgpack frame each. Standard library and msgspec only.

A call ends with exactly one terminal message: a `Head` or `Part` that is `last`, or `Failed`. Parts are bounded: the
process sends `WINDOW` parts ahead of the worker's `Credit`, each of at most `PART_BYTES`.
"""

from __future__ import annotations

import enum

import msgspec

from container.hooks.model.caller import NOBODY, Caller

# A call holds at most their product, 1 MiB, in each process. A token is a part too, so bytes alone would not do.
WINDOW = 16
PART_BYTES = 65_536

Pairs = tuple[tuple[str, str], ...]


class Call(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One HTTP request for the hook. `call_id` is ours; `request_id` names the request in the log.

    `is_ping`: the hook's own answer to /ping is asked for; there is no body. `caller`: for whom the hook calls the
    model.
    """

    call_id: str
    request_id: str
    is_ping: bool = False
    body: bytes = b""
    content_type: str | None = None
    accept: str | None = None
    headers: Pairs = ()
    query: Pairs = ()
    caller: Caller = NOBODY


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Nobody waits for the answer any more: the client has gone, or its time is used up."""

    call_id: str


class Credit(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The worker has handed on `num_parts` more."""

    call_id: str
    num_parts: int


class Head(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The answer's head and its first bytes. `last`: they are the whole body."""

    call_id: str
    status: int
    content_type: str | None
    headers: Pairs
    body: bytes
    last: bool


class Part(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """More of a streamed body. The last one is empty."""

    call_id: str
    body: bytes
    last: bool = False


class Reason(enum.StrEnum):
    """Why a call failed."""

    HOOK = "hook"  # the hook's own error, with its status and its message
    INTERNAL = "internal"  # a bug outside the hook
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"
    OUT_OF_MEMORY = "out_of_memory"


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The call has failed, before its head or within its stream. `message` is fit for a client.

    `retry_after_s` is what the hook's own error says; only its reason HOOK has one.
    """

    call_id: str
    reason: Reason
    message: str
    status: int = 400
    retry_after_s: int | None = None


ToHost = Call | Abort | Credit
FromHost = Head | Part | Failed

_encoder = msgspec.msgpack.Encoder()
_to_host = msgspec.msgpack.Decoder(ToHost)
_from_host = msgspec.msgpack.Decoder(FromHost)


def encode(message: ToHost | FromHost) -> bytes:
    """One frame."""
    return _encoder.encode(message)


def decode_to_host(frame: bytes) -> ToHost:
    """Raises ValueError for anything else."""
    found: ToHost = _to_host.decode(frame)
    return found


def decode_from_host(frame: bytes) -> FromHost:
    """Raises ValueError for anything else."""
    found: FromHost = _from_host.decode(frame)
    return found


def is_terminal(message: FromHost) -> bool:
    """Whether nothing may follow for the call."""
    return isinstance(message, Failed) or message.last
