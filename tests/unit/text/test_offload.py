"""Long work runs in a thread while the event loop goes on; short work where it is asked for."""

from __future__ import annotations

import gc
import threading
from functools import partial

import gevent
import pytest
from gevent.hub import Hub

from container.errors import InvalidRequest
from container.text.offload import encode, offload
from container.text.tokenizer import Tokenizer, TokenizerError


@pytest.mark.parametrize(("num_chars", "in_thread"), [(10, False), (1_000_000, True)])
def test_the_loop_goes_on_during_long_work(num_chars: int, in_thread: bool) -> None:
    """The work waits for something that only another greenlet does."""
    event = threading.Event()
    other = gevent.spawn(event.set)
    assert offload(num_chars, lambda: event.wait(20 if in_thread else 0.1)) is in_thread
    other.join()


@pytest.mark.parametrize("num_chars", [10, 1_000_000])
def test_what_the_tokenizer_refuses_is_the_clients_fault(num_chars: int) -> None:
    def refuse() -> None:
        raise TokenizerError("no character")

    with pytest.raises(InvalidRequest, match=r"^tokenizer error no character$"):
        offload(num_chars, refuse)


@pytest.mark.parametrize("num_chars", [10, 1_000_000])
def test_other_exceptions_are_raised_as_they_are(num_chars: int, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match=r"^'?gone'?$"):
        offload(num_chars, fail)
    assert "Traceback" not in capfd.readouterr().err


def hubs() -> set[int]:
    return {id(found) for found in gc.get_objects() if type(found) is Hub}


def test_long_texts_use_one_pool(byte_level: Tokenizer) -> None:
    """A hub that a pool thread made for itself would have a pool of its own."""
    texts = [f"text {i} " * 4000 for i in range(20)]
    pool = gevent.get_hub().threadpool
    before = hubs()
    found = [gevent.spawn(partial(encode, byte_level, text)) for text in texts]
    gevent.joinall(found, raise_error=True)
    assert [each.value for each in found] == [byte_level.encode(text, add_special_tokens=True) for text in texts]
    assert hubs() == before
    assert gevent.get_hub().threadpool is pool
    assert pool.size <= pool.maxsize
