"""Sticky sessions by header and by `requestType` (developer guide, "Stateful sessions")."""

from __future__ import annotations

import re

import pytest

from tests.support.server import Answer, Server

GIVEN = "X-Amzn-SageMaker-Session-Id"
NEW = "X-Amzn-SageMaker-New-Session-Id"
CLOSED = "X-Amzn-SageMaker-Closed-Session-Id"
TEXT = {"inputs": "hello", "parameters": {"max_new_tokens": 2}}
HEADER = re.compile(r"^([a-zA-Z0-9](?:-*[a-zA-Z0-9])*);\sExpires=[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$")


def call(server: Server, body: object, session: str = "") -> Answer:
    return server.request("POST", "/invocations", body, **({GIVEN: session} if session else {}))


def opened(answer: Answer) -> str:
    found = HEADER.match(answer.headers[NEW])
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("body", "session"), [({"requestType": "NEW_SESSION"}, ""), ({"requestType": "NEW_SESSION"}, "NEW_SESSION")]
)
def test_a_session_from_its_beginning_to_its_end(tiny_server: Server, body: object, session: str) -> None:
    answer = call(tiny_server, body, session)
    name = opened(answer)
    assert answer.json == {"session_id": name}
    for _ in range(6):
        used = call(tiny_server, TEXT, name)
        assert used.status == 200, "whichever worker takes it"
        assert NEW not in used.headers
    closed = call(tiny_server, {"requestType": "CLOSE"}, name)
    assert closed.headers[CLOSED] == name
    assert call(tiny_server, TEXT, name).status == 400
    assert call(tiny_server, {"requestType": "CLOSE"}, name).status == 400


@pytest.mark.parametrize("stream", [False, True])
def test_the_first_request_may_open_it(tiny_server: Server, stream: bool) -> None:
    answer = call(tiny_server, TEXT | {"stream": stream}, "NEW_SESSION")
    assert b"generated_text" in answer.body
    assert call(tiny_server, TEXT, opened(answer)).status == 200


def test_a_refused_request_opens_none(tiny_server: Server) -> None:
    answer = call(tiny_server, {"inputs": ""}, "NEW_SESSION")
    assert answer.status == 422
    assert NEW not in answer.headers


@pytest.mark.parametrize("session", ["unknown", "../board", "0" * 32])
def test_a_session_nobody_opened(tiny_server: Server, session: str) -> None:
    answer = call(tiny_server, TEXT, session)
    assert answer.status == 400
    assert "is not open" in answer.json["error"]


@pytest.mark.parametrize(
    "body", [{"requestType": "CLOSE"}, {"requestType": "PAUSE"}, {"requestType": 1}, {"requestType": []}]
)
def test_a_request_type_that_means_nothing(tiny_server: Server, body: object) -> None:
    assert call(tiny_server, body).status == 422
