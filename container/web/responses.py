"""Small helpers every dialect answers with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from flask import Response


def json_response(body: Any, status: int = 200) -> Response:
    """A whole JSON answer, with its Content-Length."""
    return Response(msgspec.json.encode(body), status=status, mimetype="application/json")


def when_made(response: Response, action: Callable[[], None]) -> None:
    """Call `action` once, as soon as nothing of the answer is left to make and before a client can have its end.

    At once for a whole answer; for a stream after its last part, or when it is closed because its client has gone.
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
