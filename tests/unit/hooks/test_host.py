"""The hook process from the socket's side: answers, streams, aborts, limits. Only the hook is scripted."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from container.hooks.call import (
    PART_BYTES,
    WINDOW,
    Abort,
    Call,
    Credit,
    Failed,
    FromHost,
    Head,
    Part,
    Reason,
    decode_from_host,
    encode,
)
from container.hooks.host import host as host_module
from container.hooks.host.host import HookStuck, Host
from container.hooks.host.output import LogStream, RequestIds
from container.hooks.host.running_call import failure
from container.hooks.model.errors import CallEnded
from container.hooks.model.open_calls import open_calls
from container.hooks.user_code.answer import sync_parts
from container.hooks.user_code.hook import HookAnswer, HookError, HookRequest
from container.hooks.user_code.stepped_parts import SteppedParts
from handler.seam.status import StatusBoard

_TIMEOUT_MS = 60_000
Script = Callable[[HookRequest], Any]


class ScriptedHook:
    """A user's code."""

    overrides_ping = True
    owns_model = True

    def __init__(self, script: Script, *, is_async: bool = False) -> None:
        self._script = script
        self.is_async = is_async

    def call(self, request: HookRequest) -> HookAnswer | Awaitable[HookAnswer]:
        found: HookAnswer | Awaitable[HookAnswer] = self._script(request)
        return found

    def ping(self) -> HookAnswer | Awaitable[HookAnswer]:
        answer = HookAnswer(200, None, (), b"pong")
        return in_future(answer) if self.is_async else answer


async def in_future(answer: HookAnswer) -> HookAnswer:
    return answer


class Worker:
    """A web worker's end."""

    def __init__(self, context: zmq.Context[Any], path: str) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, _TIMEOUT_MS)
        self._socket.connect(f"ipc://{path}")

    def send(self, message: Call | Abort | Credit) -> None:
        self._socket.send(encode(message))

    def ask(self, call_id: str = "a", **fields: Any) -> None:
        self.send(Call(call_id, f"request-{call_id}", **fields))

    def next(self) -> FromHost:
        """The next message; empty frames only ask whether the worker lives."""
        while not (frame := self._socket.recv()):
            pass
        return decode_from_host(frame)

    def close(self) -> None:
        self._socket.close()


class RunningHost:
    """A host in a thread of the test."""

    def __init__(self, hook: ScriptedHook, directory: Path, **limits: int) -> None:
        self.board = StatusBoard(directory / "board", create=True)
        self.path = str(directory / "socket")
        self.host = Host(hook, self.path, self.board, **({"num_threads": 2, "max_calls": 8} | limits))
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.host.run()
        except HookStuck as exc:
            self.error = exc

    def wait_running(self, number: int) -> None:
        """Until this many calls run that somebody waits for, as a drain sees it."""
        until_s = time.monotonic() + 60
        while self.board["running"] != number:
            assert time.monotonic() < until_s, self.board["running"]
            time.sleep(0.01)

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextmanager
def hosting(
    script: Script | ScriptedHook, *, is_async: bool = False, **limits: int
) -> Iterator[tuple[RunningHost, Worker]]:
    hook = script if isinstance(script, ScriptedHook) else ScriptedHook(script, is_async=is_async)
    with tempfile.TemporaryDirectory(prefix="hook-") as directory:
        running = RunningHost(hook, Path(directory), **limits)
        context = zmq.Context()
        worker = Worker(context, running.path)
        try:
            yield running, worker
        finally:
            running.host.stop()
            running.join()
            worker.close()
            context.term()


def whole(body: bytes = b"body", status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> HookAnswer:
    return HookAnswer(status, "text/plain", headers, body)


def raising(error: BaseException) -> Script:
    def script(_request: HookRequest) -> HookAnswer:
        raise error

    return script


def both_ways(script: Script) -> list[tuple[Script, bool]]:
    async def in_task(request: HookRequest) -> HookAnswer:
        found: HookAnswer = script(request)
        return found

    return [(script, False), (in_task, True)]


def test_a_call_arrives_as_it_was_sent_and_is_answered_once() -> None:
    seen: list[HookRequest] = []

    def script(request: HookRequest) -> HookAnswer:
        seen.append(request)
        return whole(status=201, headers=(("x-one", "1"),))

    fields: dict[str, Any] = {"content_type": "a/b", "accept": "c/d", "headers": (("x", "y"),), "query": (("q", "1"),)}
    for each, is_async in both_ways(script):
        with hosting(each, is_async=is_async) as (_, worker):
            worker.ask(body=b"\0\xff", **fields)
            assert worker.next() == Head("a", 201, "text/plain", (("x-one", "1"),), b"body", last=True)
            worker.ask("ping", is_ping=True)
            assert worker.next() == Head("ping", 200, None, (), b"pong", last=True)
    expected = {"request_id": "request-a", "body": b"\0\xff"} | fields
    assert [msgspec.structs.asdict(request) for request in seen] == [expected] * 2


FAILURES: list[tuple[BaseException, Failed]] = [
    (HookError(415, "only CSV"), Failed("a", Reason.HOOK, "only CSV", 415)),
    (SystemExit(3), Failed("a", Reason.HOOK, "the hook called sys.exit()")),
    (MemoryError(), Failed("a", Reason.OUT_OF_MEMORY, "the hook ran out of memory")),
    (RuntimeError("secret"), Failed("a", Reason.INTERNAL, "the hook failed")),
    (KeyboardInterrupt(), Failed("a", Reason.HOOK, "the hook raised KeyboardInterrupt")),
    (GeneratorExit(), Failed("a", Reason.HOOK, "the hook raised GeneratorExit")),
    (asyncio.CancelledError(), Failed("a", Reason.HOOK, "the hook raised CancelledError")),
]


@pytest.mark.parametrize(("error", "expected"), FAILURES, ids=lambda value: type(value).__name__)
def test_what_a_hook_raises_fails_its_call_alone(error: BaseException, expected: Failed) -> None:
    for each, is_async in both_ways(raising(error)):
        with hosting(each, is_async=is_async) as (_, worker):
            for _ in range(3):  # more than there are threads
                worker.ask()
                assert worker.next() == expected


def test_what_no_frame_can_hold_fails_its_call_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RequestIds())
    assert decode_from_host(encode(failure("1", HookError(400, "bad: \ud800")))) == Failed("1", Reason.HOOK, "bad: ?")
    unsayable: Any = [[object()]]
    for script, is_async in streams(unsayable):
        with hosting(script, is_async=is_async) as (_, worker):
            worker.ask()
            assert [worker.next(), worker.next()] == [STREAM_HEAD, Failed("a", Reason.INTERNAL, "the hook failed")]
    (found, *_) = [record for record in caplog.records if record.exc_info]
    assert found.fields["request_id"] == "request-a"  # type: ignore[attr-defined]


def test_a_cause_that_ran_out_of_memory_is_no_error_of_the_hook(caplog: pytest.LogCaptureFixture) -> None:
    error = HookError(400, "MemoryError")
    error.__cause__ = MemoryError()
    with hosting(raising(error)) as (_, worker):
        worker.ask()
        assert worker.next() == Failed("a", Reason.OUT_OF_MEMORY, "the hook ran out of memory")
    assert any(record.exc_info for record in caplog.records)


BAD_HEADS: dict[str, tuple[dict[str, Any], str]] = {
    "low": ({"status": 99}, "status must be a whole number from 200 to 599. Given: 99"),
    "text": ({"status": "200"}, "Given: '200'"),
    "line break": ({"headers": (("x", "a\r\nb: c"),)}, "header 'x' is no header of HTTP"),
    "colon": ({"headers": (("bad:", "x"),)}, "header 'bad:'"),
    "space": ({"headers": (("a b", "x"),)}, "header 'a b'"),
    "no name": ({"headers": (("", "x"),)}, "header ''"),
    "control": ({"headers": (("x", "\x01"),)}, "header 'x'"),
    "no latin": ({"headers": (("x", "€"),)}, "header 'x'"),
    "number as type": ({"content_type": 5}, "content type must be a media type. Given: 5"),
    "type": ({"content_type": "a/b\n"}, "content type must be a media type"),
}


@pytest.mark.parametrize("body", [b"whole", [b"one", b"two"]], ids=["whole", "stream"])
@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_head_that_http_cannot_have_is_the_hooks_failure(name: str, body: bytes | list[bytes]) -> None:
    given, says = BAD_HEADS[name]

    def script(_request: HookRequest) -> HookAnswer:
        fields = {"status": 200, "content_type": None, "headers": ()} | given
        return HookAnswer(**fields, body=body if isinstance(body, bytes) else iter(body))

    for each, is_async in both_ways(script):
        with hosting(each, is_async=is_async) as (_, worker):
            worker.ask()
            failed = worker.next()
            assert isinstance(failed, Failed)
            assert (failed.reason, failed.status, says in failed.message) == (Reason.HOOK, 400, True), failed
            worker.ask("ping", is_ping=True)  # nothing follows
            assert worker.next().call_id == "ping"


def test_a_status_and_a_header_of_any_kind_that_http_has_are_answered() -> None:
    import numpy

    found = HookAnswer(numpy.int64(201), None, (("x-~!", "\té\xff"),), b"")  # type: ignore[arg-type]
    with hosting(lambda _: found) as (_, worker):
        worker.ask()
        assert worker.next() == Head("a", 201, None, (("x-~!", "\té\xff"),), b"", last=True)


def stepped(parts: AsyncIterator[bytes]) -> Iterator[bytes]:
    """As sync user code's async iterators are sent."""
    return sync_parts(SteppedParts(parts), (), lambda part: part)


def streams(parts: list[bytes], error: Exception | None = None, closed: threading.Event | None = None) -> list[Any]:
    """A sync hook that streams, and an async one; `closed` is set when the generator is closed."""

    def parts_of() -> Iterator[bytes]:
        try:
            yield from parts
            if error is not None:
                raise error
        finally:
            if closed is not None:
                closed.set()

    async def async_parts() -> AsyncIterator[bytes]:
        for part in parts_of():
            yield part

    async def in_task(_request: HookRequest) -> HookAnswer:
        return HookAnswer(200, "text/event-stream", (), async_parts())

    return [
        (lambda _: HookAnswer(200, "text/event-stream", (), parts_of()), False),
        (lambda _: HookAnswer(200, "text/event-stream", (), stepped(async_parts())), False),
        (in_task, True),
    ]


STREAM_HEAD = Head("a", 200, "text/event-stream", (), b"", last=False)


def test_a_stream_comes_part_by_part_and_long_parts_are_cut() -> None:
    for script, is_async in streams([b"one", b"", b"x" * (PART_BYTES + 1)]):
        with hosting(script, is_async=is_async) as (_, worker):
            worker.ask()
            found = [worker.next() for _ in range(5)]
            expected = [Part("a", b"one"), Part("a", b"x" * PART_BYTES), Part("a", b"x"), Part("a", b"", last=True)]
            assert found == [STREAM_HEAD, *expected]


def test_a_stream_that_fails_has_a_status_before_its_first_part_and_none_after() -> None:
    for parts in ([], [b"one"]):
        for script, is_async in streams(parts, HookError(422, "no more")):
            with hosting(script, is_async=is_async) as (_, worker):
                worker.ask()
                if parts:
                    assert [worker.next(), worker.next()] == [STREAM_HEAD, Part("a", b"one")]
                assert worker.next() == Failed("a", Reason.HOOK, "no more", 422)


def test_a_reader_that_stops_holds_back_the_hook_and_an_abort_closes_it() -> None:
    for index in range(3):
        closed = threading.Event()
        script, is_async = streams([b"%d" % i for i in range(1000)], closed=closed)[index]
        with hosting(script, is_async=is_async) as (_, worker):
            worker.ask("a")
            assert worker.next() == STREAM_HEAD
            assert [worker.next() for _ in range(WINDOW)] == [Part("a", b"%d" % i) for i in range(WINDOW)]
            # Nothing more comes: a later call's answer overtakes it.
            worker.ask("ping", is_ping=True)
            assert worker.next().call_id == "ping"
            worker.send(Credit("a", 2))
            assert [worker.next().call_id for _ in range(2)] == ["a", "a"]
            worker.ask("ping", is_ping=True)
            assert worker.next().call_id == "ping"
            assert not closed.is_set()
            worker.send(Abort("a"))
            assert closed.wait(60)


def test_an_abort_cancels_the_part_that_a_sync_hooks_async_generator_makes() -> None:
    begun, closed = threading.Event(), threading.Event()

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            begun.set()
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            closed.set()

    with hosting(lambda _: HookAnswer(200, None, (), stepped(parts())), num_threads=1) as (_, worker):
        for _ in range(2):  # the one thread is free again
            worker.ask()
            assert isinstance(worker.next(), Head)
            assert worker.next() == Part("a", b"one")
            assert begun.wait(60)
            worker.send(Abort("a"))
            assert closed.wait(60)
            begun.clear()
            closed.clear()


def test_calls_beyond_the_limit_are_refused_and_pings_are_not() -> None:
    goes_on = threading.Event()

    def wait(_request: HookRequest) -> HookAnswer:
        goes_on.wait(60)
        return whole()

    with hosting(wait, num_threads=1, max_calls=2) as (_, worker):
        for name in "abc":
            worker.ask(name)
        assert worker.next() == Failed("c", Reason.OVERLOADED, "the hook is overloaded")
        worker.ask("ping", is_ping=True)
        assert worker.next().call_id == "ping"
        goes_on.set()
        assert sorted(worker.next().call_id for _ in range(2)) == ["a", "b"]


def test_calls_that_nobody_waits_for_count_neither_for_the_limit_nor_for_a_drain() -> None:
    goes_on = threading.Event()

    def wait(_request: HookRequest) -> HookAnswer:
        goes_on.wait(60)
        return whole()

    with hosting(wait, num_threads=1, max_calls=2) as (running, worker):
        for name in "ab":  # the first runs, the second waits for the thread
            worker.ask(name)
        running.wait_running(2)
        worker.ask("ping", is_ping=True)
        assert worker.next().call_id == "ping"
        worker.send(Abort("a"))
        worker.send(Abort("b"))
        running.wait_running(0)
        for name in "cde":
            worker.ask(name)
        assert worker.next() == Failed("e", Reason.OVERLOADED, "the hook is overloaded")
        goes_on.set()
        assert [worker.next().call_id for _ in range(2)] == ["c", "d"]


class HungPing(ScriptedHook):
    """Its first health check hangs."""

    def __init__(self, *, is_async: bool) -> None:
        super().__init__(lambda _: whole(), is_async=is_async)
        self.begun, self.goes_on, self.num_pings = threading.Event(), threading.Event(), 0

    def ping(self) -> HookAnswer | Awaitable[HookAnswer]:
        return asyncio.to_thread(self._hang) if self.is_async else self._hang()

    def _hang(self) -> HookAnswer:
        self.num_pings += 1
        self.begun.set()
        self.goes_on.wait(60)
        return whole(b"pong")


@pytest.mark.parametrize("is_async", [False, True])
def test_a_health_check_that_hangs_keeps_no_place(is_async: bool) -> None:
    hook = HungPing(is_async=is_async)
    with hosting(hook, max_calls=1) as (running, worker):
        for name in ("ping", "later"):
            worker.ask(name, is_ping=True)
        assert hook.begun.wait(60)
        worker.ask("a")
        assert worker.next() == Head("a", 200, "text/plain", (), b"body", last=True)
        running.wait_running(0)
        worker.send(Abort("ping"))
        worker.send(Abort("later"))
        worker.ask("b")  # the aborts have been read by then
        assert worker.next().call_id == "b"
        hook.goes_on.set()
        worker.ask("last", is_ping=True)
        assert worker.next() == Head("last", 200, "text/plain", (), b"pong", last=True)
        assert hook.num_pings == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_a_health_check_that_hangs_for_nobody_is_stuck(monkeypatch: pytest.MonkeyPatch, is_async: bool) -> None:
    monkeypatch.setattr(host_module, "STUCK_S", 0.0 if not is_async else 0.01)
    monkeypatch.setattr(host_module, "_LOOK_S", 0.0)
    hook = HungPing(is_async=is_async)
    try:
        with hosting(hook) as (running, worker):
            worker.ask("ping", is_ping=True)
            assert hook.begun.wait(60)
            worker.send(Abort("ping"))
            running.join()
            assert "its health check is held" in str(running.error)
    finally:
        hook.goes_on.set()


def test_an_aborted_call_that_waits_for_a_thread_never_runs() -> None:
    goes_on, seen = threading.Event(), []

    def wait(request: HookRequest) -> HookAnswer:
        seen.append(request.request_id)
        goes_on.wait(60)
        return whole()

    with hosting(wait, num_threads=1) as (_, worker):
        for name in "abc":
            worker.ask(name)
        worker.send(Abort("b"))
        worker.ask("ping", is_ping=True)  # the abort has been read by then
        assert worker.next().call_id == "ping"
        goes_on.set()
        assert [worker.next().call_id for _ in range(2)] == ["a", "c"]
    assert seen == ["request-a", "request-c"]


def test_an_abort_cancels_an_async_call() -> None:
    cancelled = threading.Event()

    async def wait(_request: HookRequest) -> HookAnswer:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return whole()

    with hosting(wait, is_async=True) as (_, worker):
        worker.ask("a")
        worker.ask("ping", is_ping=True)
        assert worker.next().call_id == "ping"
        worker.send(Abort("a"))
        assert cancelled.wait(60)


class Waits:
    """A call of the model."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def end(self) -> None:
        self.ended.set()


def asks_the_model(_request: HookRequest) -> HookAnswer:
    """Raises as `model` does if nobody waits any more."""
    calls, waits = open_calls.get(), Waits()
    assert calls is not None
    calls.add(waits)
    assert waits.ended.wait(60)
    raise HookError(503, "nobody waits") from CallEnded()


async def asks_the_model_in_a_thread(request: HookRequest) -> HookAnswer:
    return await asyncio.to_thread(asks_the_model, request)


@pytest.mark.parametrize("script", [asks_the_model, asks_the_model_in_a_thread])
def test_an_abort_ends_what_the_hook_asks_of_the_model(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    with hosting(script, is_async=script is not asks_the_model, num_threads=1) as (_, worker):
        for _ in range(2):  # the one thread is free again
            worker.ask()
            worker.ask("ping", is_ping=True)
            assert worker.next().call_id == "ping"
            worker.send(Abort("a"))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_sync_functions_of_an_async_hook_have_as_many_threads_as_sync_hooks() -> None:
    together = threading.Barrier(9)

    def wait(request: HookRequest) -> HookAnswer:
        together.wait(60)
        return whole(request.request_id.encode())

    async def script(request: HookRequest) -> HookAnswer:
        return await asyncio.to_thread(wait, request)

    with hosting(script, is_async=True, num_threads=8, max_calls=9) as (_, worker):
        for name in "abcdefgh":
            worker.ask(name)
        together.wait(60)
        assert sorted(worker.next().call_id for _ in range(8)) == list("abcdefgh")


def test_a_sync_ping_of_an_async_hook_is_answered_while_every_thread_is_held() -> None:
    goes_on, begun = threading.Event(), threading.Event()

    def block() -> HookAnswer:
        begun.set()
        goes_on.wait(60)
        return whole()

    class SyncPing(ScriptedHook):
        def ping(self) -> Awaitable[HookAnswer]:
            return asyncio.to_thread(whole, b"pong")

    async def script(_request: HookRequest) -> HookAnswer:
        return await asyncio.to_thread(block)

    with hosting(SyncPing(script, is_async=True), num_threads=1) as (_, worker):
        worker.ask("a")
        assert begun.wait(60)
        worker.ask("ping", is_ping=True)
        assert worker.next().call_id == "ping"
        goes_on.set()
        assert worker.next().call_id == "a"


def test_calls_of_a_worker_that_died_are_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "_LOOK_S", 0.0)
    closed = threading.Event()
    ((script, is_async), *_) = streams([b"x"] * 1000, closed=closed)
    with hosting(script, is_async=is_async) as (running, _):
        with zmq.Context() as context:
            dying = Worker(context, running.path)
            dying.ask("a")
            assert dying.next() == STREAM_HEAD
            dying.close()
        assert closed.wait(60)


@pytest.mark.parametrize("kind", ["threads", "loop", "threads of the loop"])
def test_a_hook_whose_every_thread_is_held_for_nobody_is_stuck(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(host_module, "STUCK_S", 0.01 if kind == "loop" else 0.0)
    monkeypatch.setattr(host_module, "_LOOK_S", 0.0)
    goes_on, begun = threading.Event(), threading.Semaphore(0)

    def block(_request: HookRequest) -> HookAnswer:
        begun.release()
        goes_on.wait(60)
        return whole()

    async def in_thread(request: HookRequest) -> HookAnswer:
        return await asyncio.to_thread(block, request)

    (sync, _), (in_task, _) = both_ways(block)
    script = {"threads": sync, "loop": in_task, "threads of the loop": in_thread}[kind]
    try:
        with hosting(script, is_async=kind != "threads", num_threads=2) as (running, worker):
            worker.ask("a")
            worker.ask("b")
            assert all(begun.acquire(timeout=60) for _ in range(1 if kind == "loop" else 2))
            worker.send(Abort("a"))
            worker.send(Abort("b"))
            running.join()
            assert "held by calls that nobody waits for" in str(running.error)
    finally:
        goes_on.set()


def test_a_stop_answers_whoever_waits() -> None:
    goes_on = threading.Event()
    with hosting(lambda _: goes_on.wait(60) and whole()) as (running, worker):
        worker.ask()
        worker.ask("ping", is_ping=True)
        assert worker.next().call_id == "ping"
        running.host.stop()
        assert worker.next() == Failed("a", Reason.NOT_READY, "the hook is being stopped")
        goes_on.set()


def test_lines_carry_the_id_of_the_request_that_printed_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(RequestIds())
    monkeypatch.setattr(sys, "stdout", LogStream("hook.stdout", [caplog.handler], None))
    barrier = threading.Barrier(2)

    def talk(request: HookRequest) -> HookAnswer:
        print("begun by", end=" ")
        barrier.wait(60)
        print(f"{request.request_id}\nand no line break", end="")
        logging.getLogger("mine").warning("logged")
        return whole()

    with hosting(talk) as (_, worker):
        worker.ask("a")
        worker.ask("b")
        for _ in range(2):
            worker.next()
    marked = [record for record in caplog.records if hasattr(record, "fields")]
    found = {(record.getMessage(), record.fields["request_id"]) for record in marked}
    assert found == {
        (text, f"request-{name}")
        for name in "ab"
        for text in (f"begun by request-{name}", "and no line break", "logged")
    }
