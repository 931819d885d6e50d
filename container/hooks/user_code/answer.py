"""What a user's functions returned, as an answer: whole, or a stream of parts as they come."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from container.hooks.user_code.content.accept import EVENT_STREAM, Accept
from container.hooks.user_code.content.encoding import to_json
from container.hooks.user_code.content.framing import Frame, begins_events, framing
from container.hooks.user_code.context import Context
from container.hooks.user_code.failures import hook_errors
from container.hooks.user_code.hook import HookAnswer
from container.hooks.user_code.stepped_parts import SteppedParts

JSON_LINES = "application/jsonlines"
_TEXT = "text/plain; charset=utf-8"
_BYTES = "application/octet-stream"
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(\s*;.*)?", re.ASCII)
_END = object()


def is_stream(result: Any) -> bool:
    """Whether a result comes part by part: an iterator, sync or async, but no list, text, bytes or dict."""
    return hasattr(result, "__next__") or hasattr(result, "__anext__")


def is_typed(result: Any) -> bool:
    """Whether a result is a pair of body and media type. Other pairs are results like any other."""
    return (
        isinstance(result, tuple)
        and len(result) == 2
        and (isinstance(result[0], str | bytes | bytearray) or is_stream(result[0]))
        and isinstance(result[1], str)
        and _MEDIA_TYPE.fullmatch(result[1]) is not None
    )


def is_body(result: Any) -> bool:
    """Whether a prediction needs no encoder: bytes or a stream, alone or with their media type."""
    body = result[0] if is_typed(result) else result
    return is_stream(body) or isinstance(body, bytes | bytearray)


async def to_answer(
    result: Any, content_type: str | None, accept: Accept, context: Context, on_loop: bool
) -> HookAnswer:
    """An answer of bytes, text, an iterator, or anything else, which becomes JSON.

    `content_type` is what the functions say; None: it follows `accept`. A stream's first part is awaited, so that a
    failure before it has a status. The status and headers that `context` was given count.
    """
    body: bytes | Iterator[bytes] | AsyncIterator[bytes]
    named = context.get_response_content_type(0) or content_type
    if is_stream(result):
        body, content_type = await open_stream(result, named, accept, on_loop)
    elif isinstance(result, bytes | bytearray | str):
        content_type = named or (_type_of(result, accept) if accept.takes_events else accept.content_type)
        body = framing(content_type)(result)
    else:
        body, content_type = to_json(result), named or "application/json"
    headers = context.get_response_headers(0).items()
    return HookAnswer(
        status=context.get_response_status(0)[0],
        content_type=content_type,
        headers=tuple((name, str(value)) for name, value in headers if name.lower() != "content-type"),
        body=body,
    )


async def open_stream(
    parts: Any, named: str | None, accept: Accept, on_loop: bool
) -> tuple[Iterator[bytes] | AsyncIterator[bytes], str]:
    """The stream with its type. Without a named one that is events where the client accepts these and the first part is
    no bytes of another form, else what that part is: JSON lines, text or bytes.
    """
    is_async = hasattr(parts, "__anext__")
    if is_async and not on_loop:
        parts, is_async = SteppedParts(parts), False
    first = await anext(parts, _END) if is_async else await _next(parts, on_loop)
    opened = () if first is _END else (first,)
    content_type = named or _type_of(first, accept)
    frame = framing(content_type)
    body = async_parts(parts, opened, frame) if is_async else sync_parts(parts, opened, frame)
    return body, content_type


async def _next(parts: Iterator[Any], on_loop: bool) -> Any:
    return await asyncio.to_thread(next, parts, _END) if on_loop else next(parts, _END)


def _type_of(part: Any, accept: Accept) -> str:
    """The type of a stream or a body that begins with this part."""
    is_bytes = isinstance(part, bytes | bytearray)
    if accept.takes_events:
        return EVENT_STREAM if not is_bytes or begins_events(part) else _BYTES
    if not isinstance(part, str | bytes | bytearray) and part is not _END:
        return EVENT_STREAM if accept.prefers_events else JSON_LINES
    if not accept.is_open:
        return accept.content_type
    return _BYTES if is_bytes else _TEXT


def sync_parts(parts: Iterator[Any], opened: tuple[Any, ...], frame: Frame) -> Iterator[bytes]:
    """Bytes of `opened` and `parts`; a failure is a HookError. Closed with whoever iterates."""
    try:
        with hook_errors():
            for part in opened:
                yield frame(part)
            for part in parts:
                yield frame(part)
    finally:
        close = getattr(parts, "close", None)
        if close is not None:
            close()


async def async_parts(parts: AsyncIterator[Any], opened: tuple[Any, ...], frame: Frame) -> AsyncIterator[bytes]:
    """`sync_parts` of an async iterator."""
    try:
        with hook_errors():
            for part in opened:
                yield frame(part)
            async for part in parts:
                yield frame(part)
    finally:
        close = getattr(parts, "aclose", None)
        if close is not None:
            await close()
