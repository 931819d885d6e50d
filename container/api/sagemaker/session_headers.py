"""The session that a call to /invocations opens, uses or closes, by its headers and its body's `requestType`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, request

from container.api.sagemaker.session_table import SessionTable
from container.errors import InvalidRequest
from container.web.responses import json_response

SESSION_ID = "X-Amzn-SageMaker-Session-Id"
NEW_SESSION_ID = "X-Amzn-SageMaker-New-Session-Id"
CLOSED_SESSION_ID = "X-Amzn-SageMaker-Closed-Session-Id"
_NEW = "NEW_SESSION"
_CLOSE = "CLOSE"


def in_session(body: dict[str, Any], sessions: SessionTable, answer: Callable[[dict[str, Any]], Response]) -> Response:
    """`answer(body)` in its session. Raises ServiceError, SessionUnknown among them.

    NEW_SESSION, as session id or as `requestType`, opens a session; a body without anything else generates nothing.
    `requestType` CLOSE closes the session named in the header.
    """
    given = request.headers.get(SESSION_ID, "")
    kind = body.get("requestType")
    if kind is not None and kind not in (_NEW, _CLOSE):
        raise InvalidRequest(f"`requestType` must be {_NEW} or {_CLOSE}. Given: {kind!r}"[:200], param="requestType")
    if given == _NEW or kind == _NEW:
        return _open(body, sessions, answer)
    if kind == _CLOSE:
        return _close(given, sessions)
    if given:
        sessions.check(given)
    return answer(body)


def _open(body: dict[str, Any], sessions: SessionTable, answer: Callable[[dict[str, Any]], Response]) -> Response:
    session = sessions.open()
    try:
        rest = {key: value for key, value in body.items() if key != "requestType"}
        response = answer(rest) if rest else json_response({"session_id": session.id})
    except BaseException:
        sessions.close(session.id)
        raise
    response.headers[NEW_SESSION_ID] = session.header
    return response


def _close(session_id: str, sessions: SessionTable) -> Response:
    if not session_id:
        raise InvalidRequest(f"closing a session needs its id in the {SESSION_ID} header", param="requestType")
    sessions.close(session_id)
    response = json_response({"session_id": session_id})
    response.headers[CLOSED_SESSION_ID] = session_id
    return response
