"""SageMaker's rules for a running container, asked over HTTP on the loopback. Sources: the hosting chapter of the
SageMaker developer guide and the runtime API's reference.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

CONNECT_S, PING_S, INVOCATION_S = 0.25, 2.0, 60.0
_CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}


class Broken(Exception):
    """A rule does not hold; the text says what was seen."""


@dataclass(frozen=True)
class Reply:
    status: int
    content_type: str
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object or list's first object. Raises Broken."""
        try:
            found = json.loads(self.body)
        except ValueError as exc:
            raise Broken(f"no JSON: {self.body[:200]!r}") from exc
        first = found[0] if isinstance(found, list) and found else found
        if not isinstance(first, dict):
            raise Broken(f"no JSON object: {self.body[:200]!r}")
        return first


class Probe:
    """Single requests with the platform's limits. Raises Broken when there is no complete answer in time."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str, limit_s: float) -> Reply:
        return self._send("GET", path, None, limit_s, {})

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Reply:
        """Send JSON as the platform does; a header given as "" is left out."""
        wanted = {"Content-Type": "application/json"} | (headers or {})
        sent = {name: value for name, value in wanted.items() if value}
        return self._send("POST", path, json.dumps(body).encode(), INVOCATION_S, sent)

    def _send(self, method: str, path: str, body: bytes | None, limit_s: float, headers: dict[str, str]) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CONNECT_S)
        try:
            connection.connect()
            connection.sock.settimeout(limit_s)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers.get("Content-Type", ""), response.read())
        except (OSError, http.client.HTTPException) as exc:
            raise Broken(f"{method} {path}: {type(exc).__name__} {exc}") from exc
        finally:
            connection.close()


def wait_for_port(probe: Probe, alive: Callable[[], bool], limit_s: float) -> Reply:
    """The first answer to /ping. One that misses the limit is asked again, as the platform does. Raises Broken."""
    deadline = time.monotonic() + limit_s
    missed = "nothing"
    while time.monotonic() < deadline and alive():
        try:
            return probe.get("/ping", PING_S)
        except Broken as exc:
            missed = str(exc)
            time.sleep(0.02)
    raise Broken(f"no answer before the end: {missed}")


def require_loading(first: Reply) -> None:
    """While loading, /ping answers 503 with the phase."""
    if first.status != 503 or not first.json().get("phase"):
        raise Broken(f"the first answer was {first.status} {first.body[:200]!r}")


def wait_until_ready(probe: Probe, alive: Callable[[], bool], limit_s: float) -> None:
    """/ping turns 200 with an empty body, each answer within 2 s. Raises Broken."""
    deadline = time.monotonic() + limit_s
    reply = probe.get("/ping", PING_S)
    while reply.status == 503 and time.monotonic() < deadline and alive():
        time.sleep(0.1)
        reply = probe.get("/ping", PING_S)
    if (reply.status, reply.body) != (200, b""):
        raise Broken(f"not ready: {reply.status} {reply.body[:300]!r}")


def messages(probe: Probe) -> None:
    """/invocations answers a chat."""
    for headers in ({}, {"Content-Type": "", "X-Amzn-SageMaker-Inference-Id": "1"}, {"Accept": "text/event-stream"}):
        if not _ok(probe.post("/invocations", _CHAT, headers)).json().get("choices"):
            raise Broken(f"no choices with {headers}")


def inputs(probe: Probe) -> None:
    """/invocations answers TGI's body."""
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 4}}
    if "generated_text" not in _ok(probe.post("/invocations", body)).json():
        raise Broken("no generated_text")


def stream(probe: Probe) -> None:
    """A body with stream true is streamed as SSE, whatever Accept says, and ends with [DONE] and a blank line."""
    for path, extra in (("/invocations", {}), ("/v1/chat/completions", {"model": ""})):
        reply = _ok(probe.post(path, _CHAT | {"stream": True} | extra, {"Accept": "application/json"}))
        if not reply.content_type.startswith("text/event-stream") or not reply.body.endswith(b"data: [DONE]\n\n"):
            raise Broken(f"{path}: {reply.content_type} {reply.body[-100:]!r}")


def bad_request(probe: Probe) -> None:
    """A bad request gets a short 4xx without a traceback."""
    reply = probe.post("/invocations", {"messages": "no list"})
    if not 400 <= reply.status < 500 or len(reply.body) > 2048 or b"Traceback" in reply.body:
        raise Broken(f"{reply.status} {reply.body[:200]!r}")


def ping_under_load(probe: Probe) -> None:
    """/ping answers within 2 s while calls are served."""
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(probe.post, "/invocations", _CHAT) for _ in range(8)]
        for _ in range(5):
            _ok(probe.get("/ping", PING_S))
        for call in calls:
            _ok(call.result())


RULES = (messages, inputs, stream, bad_request, ping_under_load)


def _ok(reply: Reply) -> Reply:
    if reply.status != 200:
        raise Broken(f"{reply.status} {reply.body[:300]!r}")
    return reply
