"""No prompt of a decision is made for a client that has gone, or after the request's time."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from container.api.decisions.decision import _Run
from container.errors import DeadlineExceeded
from container.generation.generation import ClientDisconnected


@pytest.mark.parametrize(("leaves", "elapsed_s"), [(True, 1.0), (False, 60.0)])
def test_no_prompt_is_made_that_nobody_waits_for(leaves: bool, elapsed_s: float) -> None:
    app = Flask(__name__)
    app.extensions["service"] = SimpleNamespace(settings=SimpleNamespace(request_timeout_s=60.0))
    ours, theirs = socket.socketpair()
    unused: Any = None
    record: Any = SimpleNamespace(elapsed_s=elapsed_s)
    with ours, theirs, app.test_request_context(environ_base={"gunicorn.socket": ours}):
        if leaves:
            theirs.close()
        reads = _Run("text", unused, record, "input").reads(unused, [unused])
        with pytest.raises(ClientDisconnected if leaves else DeadlineExceeded):
            next(reads)
