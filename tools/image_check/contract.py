"""Rules beyond `sagemaker_deploy.checking.contract`: /ping goes from 503 to 200, and TGI's body is answered."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from sagemaker_deploy.checking.contract import INVOCATION_LIMIT_S, PING_LIMIT_S, check_contract
from sagemaker_deploy.checking.http_probe import Probe, Reply, Unreachable


class Broken(Exception):
    """A rule is broken; the message says what was seen."""


def wait_for_port(probe: Probe, alive: Callable[[], bool], limit_s: float) -> Reply:
    """Return the first answer to /ping. Retries a ping that misses the limit, as SageMaker does. Raises Broken."""
    deadline = time.monotonic() + limit_s
    missed = "nothing"
    while time.monotonic() < deadline and alive():
        try:
            return probe.get("/ping", PING_LIMIT_S)
        except Unreachable as exc:
            missed = str(exc)
            time.sleep(0.02)
    raise Broken(f"no answer in time: {missed}")


def require_loading(first: Reply) -> None:
    """Check that /ping answers 503 with the phase while loading. Raises Broken."""
    if first.status != 503 or not _json(first).get("phase"):
        raise Broken(f"the first answer was {first.status} {first.text()[:200]!r}")


def wait_until_ready(probe: Probe, alive: Callable[[], bool], limit_s: float) -> None:
    """Wait until /ping answers 200 with an empty body, each answer within 2 s. Raises Broken."""
    deadline = time.monotonic() + limit_s
    try:
        reply = probe.get("/ping", PING_LIMIT_S)
        while reply.status == 503 and time.monotonic() < deadline and alive():
            time.sleep(0.1)
            reply = probe.get("/ping", PING_LIMIT_S)
    except Unreachable as exc:
        raise Broken(str(exc)) from exc
    if (reply.status, reply.body) != (200, b""):
        raise Broken(f"not ready: {reply.status} {reply.text()[:300]!r}")


def broken_rules(url: str) -> list[str]:
    """SageMaker's rules that a running container breaks, each with what was seen."""
    found = [f"{finding.rule}: {finding.detail}" for finding in check_contract(url) if not finding.ok]
    return [*found, *_inputs(Probe(url))]


def _inputs(probe: Probe) -> list[str]:
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 4}}
    try:
        reply = probe.post("/invocations", body, INVOCATION_LIMIT_S)
    except Unreachable as exc:
        return [f"inputs: {exc}"]
    if reply.status != 200 or "generated_text" not in _json(reply):
        return [f"inputs: {reply.status} {reply.text()[:300]!r}"]
    return []


def _json(reply: Reply) -> dict[str, Any]:
    """The body if it is a JSON object, or its first element if it is a list of objects; else {}."""
    try:
        found = json.loads(reply.body)
    except ValueError:
        return {}
    first = found[0] if isinstance(found, list) and found else found
    return first if isinstance(first, dict) else {}
