"""Sessions by the switch `SAGEMAKER_ENABLE_STATEFUL_SESSIONS`: unset, as AWS's hosting standards answer, and off."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response

from container.api import tgi
from container.api.sagemaker.session_headers import CLOSED_SESSION_ID, NEW_SESSION_ID, SESSION_ID, in_session
from container.api.sagemaker.session_table import SessionTable
from container.errors import ServiceError
from container.settings import Settings

TEXT = {"inputs": "hello"}


@pytest.fixture
def sessions(tmp_path: Path) -> SessionTable:
    return SessionTable(tmp_path / "sessions", 60)


def call(sessions: SessionTable, switch: bool | None, body: Any, session: str | None = None) -> Response:
    headers = {} if session is None else {SESSION_ID: session}
    with Flask(__name__).test_request_context("/invocations", method="POST", headers=headers):
        try:
            return in_session(dict(body), sessions, lambda rest: Response(json.dumps(rest)), switch)
        except ServiceError as exc:
            return tgi.error_response(exc)


NEW, CLOSE = {"requestType": "NEW_SESSION"}, {"requestType": "CLOSE"}
UNSET, ON, OFF = None, True, False


@pytest.mark.parametrize(
    ("body", "session", "statuses"),
    [
        (TEXT, "none", (200, 200, 200)),
        (TEXT, "open", (200, 200, 400)),
        (TEXT, "other", (400, 400, 400)),
        (TEXT, "gone", (400, 400, 400)),
        (TEXT, "NEW_SESSION", (200, 200, 400)),
        (NEW, "none", (200, 200, 400)),
        (NEW, "NEW_SESSION", (200, 200, 400)),
        (NEW | TEXT, "none", (200, 400, 400)),
        (CLOSE, "open", (200, 200, 400)),
        (CLOSE, "none", (422, 424, 400)),
        (CLOSE, "other", (400, 400, 400)),
        (CLOSE, "gone", (400, 424, 400)),
        (CLOSE | TEXT, "open", (422, 400, 400)),
        ({"requestType": "PAUSE"}, "none", (422, 400, 400)),
        ({"requestType": ["CLOSE"]}, "open", (422, 400, 400)),
    ],
)
def test_statuses_by_switch(sessions: SessionTable, body: Any, session: str, statuses: tuple[int, int, int]) -> None:
    for switch, status in zip((UNSET, ON, OFF), statuses, strict=True):
        opened, gone = sessions.open().id, sessions.open().id
        os.utime(sessions.directory / gone, (1, 1))
        given = {"open": opened, "gone": gone, "other": "0" * 32, "NEW_SESSION": "NEW_SESSION"}.get(session)
        answer = call(sessions, switch, body, given)
        assert answer.status_code == status, (switch, answer.get_data())
        if status != 200:
            assert answer.get_json()["error"], "one sentence"


@pytest.mark.parametrize("switch", [UNSET, ON])
def test_a_session_from_its_beginning_to_its_end(sessions: SessionTable, switch: bool | None) -> None:
    answer = call(sessions, switch, NEW)
    name = answer.headers[NEW_SESSION_ID].split(";")[0]
    told = f"Session {name} created" if switch else json.dumps({"session_id": name}, separators=(",", ":"))
    assert answer.get_data(as_text=True) == told
    assert call(sessions, switch, TEXT, name).get_json(force=True) == TEXT
    closed = call(sessions, switch, CLOSE, name)
    assert closed.headers[CLOSED_SESSION_ID] == name
    assert call(sessions, switch, TEXT, name).status_code == 400


@pytest.mark.parametrize(("value", "switch"), [("", None), ("true", True), ("1", True), ("false", False)])
def test_the_switch_is_awss(value: str, switch: bool | None) -> None:
    found = Settings.from_environ({"SAGEMAKER_ENABLE_STATEFUL_SESSIONS": value})
    assert found.standard_sessions is switch
