"""Long work runs in a thread while the event loop goes on; short work where it is asked for."""

from __future__ import annotations

import threading

import gevent
import pytest

from container.errors import InvalidRequest
from container.text.offload import aside
from container.text.tokenizer import TokenizerError


@pytest.mark.parametrize(("num_chars", "in_thread"), [(10, False), (1_000_000, True)])
def test_the_loop_goes_on_during_long_work(num_chars: int, in_thread: bool) -> None:
    """The work waits for something that only another greenlet does."""
    event = threading.Event()
    other = gevent.spawn(event.set)
    assert aside(num_chars, lambda: event.wait(20 if in_thread else 0.1)) is in_thread
    other.join()


@pytest.mark.parametrize("num_chars", [10, 1_000_000])
def test_what_the_tokenizer_refuses_is_the_clients_fault(num_chars: int) -> None:
    def refuse() -> None:
        raise TokenizerError("no character")

    with pytest.raises(InvalidRequest, match=r"^tokenizer error no character$"):
        aside(num_chars, refuse)
