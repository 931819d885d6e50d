"""A connection's patience, over real sockets and a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest
from gevent import socket

from container.web import client_socket
from container.web.client_socket import BODY_S, HEAD_S, SLOWEST_BYTES_PER_S, ClientSocket, ClientTooSlow
from tests.support.clock import Clock

KEEPALIVE_S = 60.0

Pair = tuple[ClientSocket, socket.socket, dict[ClientSocket, None]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(client_socket, "time", found)
    return found


@pytest.fixture
def pair(clock: Clock) -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    idle: dict[ClientSocket, None] = {}
    client = ClientSocket(ours, KEEPALIVE_S, idle)
    yield client, theirs, idle
    client.close()
    theirs.close()


def send_head(client: ClientSocket, theirs: socket.socket) -> None:
    theirs.sendall(b"head")
    assert client.recv(100) == b"head"


@pytest.mark.parametrize(("in_body", "limit_s"), [(False, HEAD_S), (True, BODY_S)])
def test_bytes_that_drip_do_not_buy_time(pair: Pair, clock: Clock, in_body: bool, limit_s: float) -> None:
    client, theirs, _ = pair
    send_head(client, theirs)
    if in_body:
        client.expect_body()
    for _ in range(10):
        theirs.sendall(b"a")
        assert client.recv(100) == b"a"
        clock.now += limit_s / 10.01
    clock.now += 1.0
    theirs.sendall(b"a")
    with pytest.raises(ClientTooSlow):
        client.recv(100)


def test_a_large_body_has_the_time_its_length_needs(pair: Pair, clock: Clock) -> None:
    client, theirs, _ = pair
    send_head(client, theirs)
    client.expect_body()
    theirs.sendall(b"a" * SLOWEST_BYTES_PER_S)
    while client.num_body_bytes < SLOWEST_BYTES_PER_S:
        client.recv(8192)
    theirs.sendall(b"bc")
    clock.now += BODY_S + 0.9
    assert client.recv(1) == b"b"
    clock.now += 0.2
    with pytest.raises(ClientTooSlow):
        client.recv(1)


def test_between_requests_there_is_the_keepalive(pair: Pair, clock: Clock) -> None:
    client, theirs, idle = pair
    assert client in idle
    send_head(client, theirs)
    assert client not in idle
    client.expect_body()
    client.expect_request()
    assert client in idle
    theirs.sendall(b"xy")
    clock.now += KEEPALIVE_S - 1
    assert client.recv(1) == b"x"
    assert client.recv(1) == b"y"


def test_silence_ends(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    client, theirs, _ = pair
    monkeypatch.setattr(client_socket, "HEAD_S", 0.05)
    send_head(client, theirs)
    with pytest.raises(ClientTooSlow), gevent.Timeout(60):
        client.recv(100)


def test_an_answer_nobody_reads_ends(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _theirs, _ = pair
    monkeypatch.setattr(client_socket, "WRITE_S", 0.05)
    with pytest.raises(ClientTooSlow), gevent.Timeout(60):
        client.sendall(b"x" * 20_000_000)


def test_an_evicted_connection_reads_its_end(pair: Pair) -> None:
    client, _theirs, idle = pair
    client.evict()
    assert client.recv(10) == b""
    assert not idle


def test_those_who_run_out_of_time_together_let_others_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_socket, "HEAD_S", 0.1)
    pairs = [socket.socketpair() for _ in range(50)]
    turns: list[str] = []
    left = len(pairs)

    def other() -> None:
        while left:
            if turns[-1:] != ["other"]:
                turns.append("other")
            gevent.sleep(0)

    def wait(ours: socket.socket) -> None:
        nonlocal left
        with pytest.raises(ClientTooSlow):
            ClientSocket(ours, KEEPALIVE_S, {}).recv(100)
        turns.append("cut")
        left -= 1

    gevent.joinall([gevent.spawn(other), *(gevent.spawn(wait, ours) for ours, _ in pairs)])
    assert turns.count("cut") == 50
    assert "cut cut cut" not in " ".join(turns)
    for ours, theirs in pairs:
        ours.close()
        theirs.close()
