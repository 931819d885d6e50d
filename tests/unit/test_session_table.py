"""SageMaker sessions on disk, shared by all web workers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from container.api.sagemaker.session_table import SessionTable
from container.errors import MAX_RETRY_AFTER_S, Overloaded, SessionUnknown

# The pattern of the response header in SageMaker's API reference, `InvokeEndpoint`.
HEADER = re.compile(r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*;\sExpires=[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")


def test_a_session_holds_until_it_is_closed_in_any_worker(tmp_path: Path) -> None:
    one, other = (SessionTable(tmp_path / "s", 60) for _ in range(2))
    session = one.open()
    assert HEADER.match(session.header)
    other.check(session.id)
    other.close(session.id)
    for call in (one.check, one.close):
        with pytest.raises(SessionUnknown):
            call(session.id)


def test_a_session_ends(tmp_path: Path) -> None:
    session = SessionTable(tmp_path, 0.0).open()
    with pytest.raises(SessionUnknown):
        SessionTable(tmp_path, 60).check(session.id)


def test_ended_sessions_make_room_and_open_ones_do_not(tmp_path: Path) -> None:
    SessionTable(tmp_path, 0.0, limit=1).open()
    full = SessionTable(tmp_path, 60, limit=1)
    full.open()
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(Overloaded) as refused:
        full.open()
    assert refused.value.retry_after_s == MAX_RETRY_AFTER_S


@pytest.mark.parametrize(
    "session_id", ["", "..", "../../etc/passwd", "a" * 31, "a" * 31 + "/", "ä" * 32, "NEW_SESSION"]
)
def test_a_header_never_becomes_a_path(tmp_path: Path, session_id: str) -> None:
    with pytest.raises(SessionUnknown):
        SessionTable(tmp_path, 60).close(session_id)
