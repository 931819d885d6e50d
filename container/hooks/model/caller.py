"""For whom a hook calls the model: what its calls have from the request that it answers.

Standard library and msgspec only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec


class Caller(msgspec.Struct, frozen=True, array_like=True):
    """`adapter` is that of calls that name none, "" for the base model. `tenant` says whose prefixes they may share."""

    adapter: str = ""
    tenant: str = ""


NOBODY = Caller()
# That of the request that runs in this context. Threads and tasks of a call inherit it.
current_caller: ContextVar[Caller] = ContextVar("current_caller", default=NOBODY)


@contextmanager
def calls_for(caller: Caller) -> Iterator[None]:
    """Calls made in the block are this caller's."""
    token = current_caller.set(caller)
    try:
        yield
    finally:
        current_caller.reset(token)
