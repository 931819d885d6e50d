"""Checks SageMaker's rules for a container at any URL: a local container, or one behind a tunnel.

Each rule sends a few requests and gives one finding; a broken rule does not stop the others. Sources: the hosting
chapter of the SageMaker developer guide and the reference of the runtime API.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sagemaker_deploy.checking.http_probe import Probe, Reply, Unreachable
from sagemaker_deploy.request.user_code import UserCode

PING_LIMIT_S = 2.0
INVOCATION_LIMIT_S = 60.0
MAX_MESSAGE_BYTES = 2048
LARGE_BODY_BYTES = 7 * 2**20  # more than SageMaker's former limit of 6 MB and the 1 to 5 MB of common proxies
_SOME_BODY = {"inputs": "Say hello."}
_CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}


@dataclass(frozen=True)
class Finding:
    """The result of one rule; `detail` says what was seen if it is broken."""

    rule: str
    ok: bool
    detail: str = ""


class Broken(Exception):
    """A rule is broken; the message becomes the finding's detail."""


def check_contract(url: str) -> list[Finding]:
    """Check every rule against the container at `url`; return the findings in order."""
    probe = Probe(url)
    return [_finding(rule, probe) for rule in RULES]


def check_code(url: str, code: UserCode, body: bytes | None) -> list[Finding]:
    """Check the rules that hold for any `code` at /invocations; return the findings in order.

    `body` is JSON that the code answers with 200; None: some JSON that it may refuse.
    """

    def call(probe: Probe) -> None:
        """POST /invocations is answered by the code, without a traceback."""
        reply = probe.post("/invocations", body or _SOME_BODY, INVOCATION_LIMIT_S)
        if "Traceback" in reply.text():
            raise Broken("a traceback in the answer")
        if reply.status >= 500 or (body and reply.status != 200):
            raise Broken(f"status {reply.status}: {reply.text()[:200]}")

    probe = Probe(url)
    rules = (_ping, call, *(() if code.owns_model else (_openai,)), _metrics, _ping_under_load)
    return [_finding(rule, probe) for rule in rules]


def _finding(rule: Callable[[Probe], None], probe: Probe) -> Finding:
    name = (rule.__doc__ or rule.__name__).strip().rstrip(".")
    try:
        rule(probe)
    except (Broken, Unreachable) as exc:
        return Finding(name, False, str(exc))
    return Finding(name, True)


def _ping(probe: Probe) -> None:
    """GET /ping answers 200 within 2 s."""
    _require_status(probe.get("/ping", PING_LIMIT_S), 200)


def _ping_under_load(probe: Probe) -> None:
    """GET /ping answers 200 within 2 s while calls are being served."""
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(probe.post, "/invocations", _CHAT, INVOCATION_LIMIT_S) for _ in range(8)]
        pings = [probe.get("/ping", PING_LIMIT_S) for _ in range(5)]
        for call in calls:
            call.result()
    for reply in pings:
        _require_status(reply, 200)


def _invocation(probe: Probe) -> None:
    """POST /invocations answers a chat with one UTF-8 JSON document within 60 s."""
    reply = probe.post("/invocations", _CHAT, INVOCATION_LIMIT_S)
    _require_status(reply, 200)
    answer = _json(reply)
    if not answer.get("choices"):
        raise Broken(f"no choices in {reply.text()[:200]}")


def _platform_headers(probe: Probe) -> None:
    """POST /invocations works without Content-Type and with unknown headers."""
    headers = {"Content-Type": "", "X-Amzn-SageMaker-Inference-Id": "1", "X-Unknown": "1"}
    _require_status(probe.post("/invocations", _CHAT, INVOCATION_LIMIT_S, headers), 200)


def _stream(probe: Probe) -> None:
    """A body with stream true is answered with SSE, whatever Accept says, and ends with a blank line."""
    reply = probe.post("/invocations", _CHAT | {"stream": True}, INVOCATION_LIMIT_S, {"Accept": "application/json"})
    _require_status(reply, 200)
    _require_sse(reply)


def _not_streamed(probe: Probe) -> None:
    """A body without stream is not streamed, even if Accept asks for events."""
    reply = probe.post("/invocations", _CHAT, INVOCATION_LIMIT_S, {"Accept": "text/event-stream"})
    _require_status(reply, 200)
    _json(reply)


def _openai(probe: Probe) -> None:
    """POST /v1/chat/completions accepts an empty model name, with and without stream."""
    body = _CHAT | {"model": ""}
    plain = probe.post("/v1/chat/completions", body, INVOCATION_LIMIT_S)
    _require_status(plain, 200)
    _json(plain)
    streamed = probe.post("/v1/chat/completions", body | {"stream": True}, INVOCATION_LIMIT_S)
    _require_status(streamed, 200)
    _require_sse(streamed)


def _metrics(probe: Probe) -> None:
    """GET /metrics answers in Prometheus text format, which SageMaker collects every minute."""
    reply = probe.get("/metrics", INVOCATION_LIMIT_S)
    _require_status(reply, 200)
    if "# TYPE" not in reply.text():
        raise Broken("no Prometheus text")


def _bad_request(probe: Probe) -> None:
    """A bad request gets a 4xx of at most 2048 bytes, SageMaker's limit, without a traceback."""
    reply = probe.post("/invocations", {"messages": "not a list"}, INVOCATION_LIMIT_S)
    if not 400 <= reply.status < 500:
        raise Broken(f"status {reply.status}")
    if len(reply.body) > MAX_MESSAGE_BYTES:
        raise Broken(f"{len(reply.body)} bytes of error text")
    if "Traceback" in reply.text():
        raise Broken("a traceback in the answer")


def _large_body(probe: Probe) -> None:
    """A body of 7 MB is read completely, neither cut off nor refused for its size."""
    padded = json.dumps(_CHAT).encode() + b" " * LARGE_BODY_BYTES
    _require_status(probe.post("/invocations", padded, INVOCATION_LIMIT_S), 200)


RULES: tuple[Callable[[Probe], None], ...] = (
    _ping,
    _invocation,
    _platform_headers,
    _stream,
    _not_streamed,
    _openai,
    _metrics,
    _bad_request,
    _large_body,
    _ping_under_load,
)


def _require_status(reply: Reply, status: int) -> None:
    if reply.status != status:
        raise Broken(f"status {reply.status}: {reply.text()[:200]}")


def _require_sse(reply: Reply) -> None:
    if not reply.content_type.startswith("text/event-stream"):
        raise Broken(f"content type {reply.content_type!r}")
    if not reply.body.endswith(b"\n\n"):
        raise Broken("the stream does not end with a blank line; SDK 2's LineIterator would loop forever")
    if b"[DONE]" not in reply.body:
        raise Broken("the stream ends without [DONE]")


def _json(reply: Reply) -> dict[str, Any]:
    try:
        answer = json.loads(reply.body.decode())
    except ValueError as exc:
        raise Broken(f"not JSON: {exc}: {reply.text()[:200]}") from exc
    if not isinstance(answer, dict):
        raise Broken("not a JSON object")
    return answer
