"""The session that a call to /invocations opens, uses or closes, by its headers and its body's `requestType`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, request

from container.api.sagemaker.session_table import SessionTable
from container.errors import InvalidRequest, SessionFailed, SessionRefused
from container.web.responses import json_response

SESSION_ID = "X-Amzn-SageMaker-Session-Id"
NEW_SESSION_ID = "X-Amzn-SageMaker-New-Session-Id"
CLOSED_SESSION_ID = "X-Amzn-SageMaker-Closed-Session-Id"
_NEW = "NEW_SESSION"
_CLOSE = "CLOSE"


def in_session(
    body: dict[str, Any], sessions: SessionTable, answer: Callable[[dict[str, Any]], Response], standard: bool | None
) -> Response:
    """`answer(body)` in its session. Raises ServiceError, SessionUnknown among them.

    NEW_SESSION, as session id or as `requestType`, opens a session; a body without anything else generates nothing.
    `requestType` CLOSE closes the session named in the header. `standard` True answers as AWS's
    model-hosting-container-standards do, False refuses all sessions (docs/decisions/0090).
    """
    given = request.headers.get(SESSION_ID, "")
    kind = body.get("requestType")
    if standard is False and (given or kind is not None):
        raise SessionRefused("sessions are turned off here (SAGEMAKER_ENABLE_STATEFUL_SESSIONS)", param="requestType")
    if kind is not None:
        _check_type(kind, body, standard)
    if given == _NEW or kind == _NEW:
        return _open(body, sessions, answer, standard)
    if kind == _CLOSE:
        return _close(given, sessions, standard)
    if given:
        sessions.check(given)
    return answer(body)


def _check_type(kind: Any, body: dict[str, Any], standard: bool | None) -> None:
    """Raises InvalidRequest."""
    refused = SessionRefused if standard else InvalidRequest
    if kind not in (_NEW, _CLOSE):
        raise refused(f"`requestType` must be {_NEW} or {_CLOSE}. Given: {kind!r}"[:200], param="requestType")
    if len(body) > 1 and (standard or kind == _CLOSE):
        raise refused(f"`requestType` {kind} must be the body's only field", param="requestType")


def _open(
    body: dict[str, Any], sessions: SessionTable, answer: Callable[[dict[str, Any]], Response], standard: bool | None
) -> Response:
    session = sessions.open()
    try:
        rest = {key: value for key, value in body.items() if key != "requestType"}
        response = answer(rest) if rest else _done(session.id, "created", standard)
    except BaseException:
        sessions.close(session.id)
        raise
    response.headers[NEW_SESSION_ID] = session.header
    return response


def _close(session_id: str, sessions: SessionTable, standard: bool | None) -> Response:
    if not session_id:
        refused = SessionFailed if standard else InvalidRequest
        raise refused(f"closing a session needs its id in the {SESSION_ID} header", param="requestType")
    if standard and sessions.expired(session_id):
        raise SessionFailed(f"session {session_id} has expired")
    sessions.close(session_id)
    response = _done(session_id, "closed", standard)
    response.headers[CLOSED_SESSION_ID] = session_id
    return response


def _done(session_id: str, what: str, standard: bool | None) -> Response:
    if standard:
        return Response(f"Session {session_id} {what}", mimetype="text/plain")
    return json_response({"session_id": session_id})
