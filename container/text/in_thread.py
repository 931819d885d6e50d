"""Work that takes long, in a thread: the other connections of the worker go on meanwhile, health checks among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gevent

T = TypeVar("T")


def in_thread(function: Callable[[], T]) -> T:
    """`function()` in a thread of gevent's pool; what it raises is raised here.

    Worth it only where the library lets go of Python's lock, and for more than a few milliseconds.
    """
    found, error = gevent.get_hub().threadpool.apply(_outcome, (function,))
    if error is not None:
        raise error
    result: T = found
    return result


def _outcome(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """The pool would print the traceback of whatever is raised."""
    try:
        return function(), None
    except Exception as exc:  # noqa: BLE001 - raised again where it was asked for
        return None, exc
