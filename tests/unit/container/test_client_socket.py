"""A connection's patience, over real sockets, with less of it than in service."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import pytest
from gevent import socket

from container import client_socket
from container.client_socket import ClientSocket, ClientTooSlow

Pair = tuple[ClientSocket, socket.socket, dict[ClientSocket, None]]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    for name in ("HEAD_S", "BODY_S", "WRITE_S"):
        monkeypatch.setattr(client_socket, name, 0.5)
    ours, theirs = socket.socketpair()
    idle: dict[ClientSocket, None] = {}
    client = ClientSocket(ours, 60.0, idle)
    yield client, theirs, idle
    client.close()
    theirs.close()


def drip(theirs: socket.socket) -> gevent.Greenlet:
    def run() -> None:
        for _ in range(100):
            theirs.sendall(b"a")
            gevent.sleep(0.05)

    return gevent.spawn(run)


def read_for_ever(client: ClientSocket) -> None:
    while client.recv(100):
        pass


@pytest.mark.parametrize("phase", ["head", "body"])
def test_bytes_that_drip_do_not_buy_time(pair: Pair, phase: str) -> None:
    client, theirs, _ = pair
    if phase == "body":
        theirs.sendall(b"head")
        client.recv(100)
        client.expect_body()
    dripping = drip(theirs)
    began = time.monotonic()
    with pytest.raises(ClientTooSlow), gevent.Timeout(30):
        read_for_ever(client)
    assert time.monotonic() - began >= 0.4
    dripping.kill()


def test_a_large_body_has_the_time_its_length_needs(pair: Pair) -> None:
    client, theirs, _ = pair
    theirs.sendall(b"head")
    client.recv(100)
    client.expect_body()
    theirs.sendall(b"a" * 65_536)
    while client.num_body_bytes < 65_536:
        client.recv(8192)
    gevent.sleep(0.7)
    theirs.sendall(b"b")
    assert client.recv(10) == b"b", "64 kB are worth another second"


def test_between_requests_there_is_the_keepalive(pair: Pair) -> None:
    client, theirs, idle = pair
    assert client in idle
    theirs.sendall(b"head")
    client.recv(100)
    assert client not in idle
    client.expect_body()
    client.expect_request()
    assert client in idle
    gevent.sleep(0.7)
    theirs.sendall(b"x")
    assert client.recv(10) == b"x"


def test_an_answer_nobody_reads_ends(pair: Pair) -> None:
    client, _theirs, _ = pair
    with pytest.raises(ClientTooSlow), gevent.Timeout(30):
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

    def wait(ours: socket.socket) -> None:
        with pytest.raises(ClientTooSlow):
            ClientSocket(ours, 60.0, {}).recv(100)
        turns.append("cut")

    def other() -> None:
        while turns.count("cut") < len(pairs):
            turns.append("other")
            gevent.sleep(0)

    began = [gevent.spawn(wait, ours) for ours, _ in pairs]
    gevent.sleep(0.05)
    gevent.joinall([*began, gevent.spawn(other)])
    assert "cut cut cut" not in " ".join(turns)
    for ours, theirs in pairs:
        ours.close()
        theirs.close()
