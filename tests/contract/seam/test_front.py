"""Clients that are slow on purpose, and streams that have much to say at once."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import gevent

from container.generation.engine_client import Reply
from handler.seam.protocol import FinishReason, StepOutput
from tests.contract.seam.web import CHAT, STREAMS, TEXT, WebServer
from tests.fakes.engine import FakeEngine, output


def head(length: int) -> bytes:
    start = "POST /generate_stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{start}Content-Length: {length}\r\n\r\n".encode()


def test_half_sent_heads_and_bodies_and_readers_that_do_not_read(web: WebServer, engine: FakeEngine) -> None:
    token = engine.token_ids("x")
    engine.script = lambda request: (output(request, token) for _ in range(3000))
    raw = json.dumps(TEXT).encode()
    clients: list[socket.socket] = []
    try:
        for i in range(120):
            clients.append(web.connect())
            if i % 3 == 0:
                clients[-1].sendall(b"GET /ping HTTP/1.1\r\nHos")
            elif i % 3 == 1:
                clients[-1].sendall(head(len(raw)) + raw[:10])
            else:
                clients[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                clients[-1].sendall(head(len(raw)) + raw)
        assert web.ping() == 200
        web.wait(lambda: len(engine.requests) == 40)
        engine.script = engine.says("hello")
        for _ in range(20):
            assert web.ping() == 200
            assert web.post("/generate", TEXT).json == {"generated_text": "hello"}
    finally:
        for client in clients:
            # Zero linger sends a reset, as a crashed client does.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
    web.wait(lambda: len(engine.aborts) == 40)


def test_streams_with_a_backlog_take_turns() -> None:
    turns: list[int] = []

    def read(number: int) -> None:
        reply = Reply("r", lambda _reply: None)
        for i in range(50):
            reply.inbox.put(StepOutput("r", [i], finish_reason=FinishReason.LENGTH if i == 49 else None))
        for _ in reply.messages():
            turns.append(number)

    gevent.joinall([gevent.spawn(read, number) for number in range(3)])
    assert turns == [0, 1, 2] * 50


def test_a_hundred_clients_that_come_and_go_at_once(web: WebServer, engine: FakeEngine) -> None:
    engine.script = engine.says(*"abcdefgh")

    def visit(i: int) -> bool:
        stream = web.open("/generate_stream", STREAMS["/generate_stream"])
        events = stream.rest() if i % 2 else [stream.event()]
        stream.close()
        return '"generated_text":"abcdefgh"' in str(events[-1]) or i % 2 == 0

    with ThreadPoolExecutor(50) as threads:
        assert all(threads.map(visit, range(200)))
    assert web.post("/generate", TEXT).json == {"generated_text": "abcdefgh"}


def test_a_connection_serves_one_request_after_the_other(web: WebServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    for path, body, status in (
        ("/generate", json.dumps(TEXT), 200),
        ("/generate", "{", 400),
        ("/nowhere", "x" * 100_000, 404),
        ("/v1/chat/completions", json.dumps(CHAT | {"stream": True}), 200),
        ("/generate", json.dumps(TEXT), 200),
    ):
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()
