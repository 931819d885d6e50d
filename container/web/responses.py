"""Responses of all dialects: whole JSON, and the moment when an answer is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from flask import Response


def json_response(body: Any, status: int = 200) -> Response:
    """A whole JSON answer, with its Content-Length."""
    return Response(msgspec.json.encode(body), status=status, mimetype="application/json")


def when_made(response: Response, action: Callable[[], None]) -> None:
    """Call `action` once, when the whole answer has been made and before the client can see its end.

    That is at once for a whole answer, and for a stream after its last part or when its client has gone.
    """
    if not response.is_streamed:
        action()
        return
    left = [action]

    def act() -> None:
        while left:
            left.pop()()

    def frames(parts: Iterable[Any]) -> Iterator[Any]:
        try:
            yield from parts
        finally:
            act()

    response.response = frames(response.response)
    # A generator that never starts runs no `finally`.
    response.call_on_close(act)
