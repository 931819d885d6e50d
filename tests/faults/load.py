"""The mixed load of the soak: every dialect, streams and whole answers, grammars, clients that leave, bad requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tests.support.server import Server

ABORTS, BAD = 0.10, 0.05
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "n": {"type": "integer"}}, "required": ["a"]}


@dataclass(slots=True)
class Tally:
    """What all threads saw; `latencies` are (second of the load, seconds) of answers that were read to their end."""

    counts: dict[str, int] = field(default_factory=dict)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1


def good(rng: random.Random) -> tuple[str, dict[str, Any], bool]:
    """Path, body, whether it is streamed."""
    text = "".join(rng.choices("abcdefgh ", k=rng.choice([3, 20, 60, 200])))
    stream = rng.random() < 0.5
    tokens = rng.choice([1, 4, 16, 40])
    chat = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": stream}
    chat |= rng.choice([{}, {"temperature": 0.7, "top_p": 0.9}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}])
    if rng.random() < 0.2:
        chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    tgi = {"inputs": text, "parameters": {"max_new_tokens": tokens, "stop": ["zz"], "repetition_penalty": 1.1}}
    completion = {"prompt": text, "max_tokens": tokens, "stream": stream, "presence_penalty": 0.5}
    return rng.choice(
        [
            ("/v1/chat/completions", chat, stream),
            ("/invocations", chat, stream),
            ("/v1/completions", completion, stream),
            ("/generate_stream", tgi, True),
            ("/generate", tgi, False),
            ("/invocations", tgi, False),
        ]
    )


def bad(rng: random.Random) -> tuple[str, bytes]:
    return rng.choice(
        [
            ("/v1/chat/completions", b'{"messages": '),
            ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a"}], "temperature": -1}'),
            ("/generate", b'{"inputs": "a", "parameters": {"max_new_tokens": 100000}}'),
            ("/v1/completions", b'{"prompt": "a", "n": -1}'),
            ("/generate", b'{"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "(("}}}'),
        ]
    )


def drive(server: Server, tally: Tally, until: float, seed: int, began: float) -> None:
    """One client after the other until the time is up."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        dice = rng.random()
        try:
            if dice < BAD:
                path, raw = bad(rng)
                status = server.request("POST", path, raw).status
                tally.count("bad")
                if not 400 <= status < 500:
                    tally.surprises.append(f"{path} {raw[:60]!r}: {status}")
            elif dice < BAD + ABORTS:
                leave(server, rng)
                tally.count("left")
            else:
                ask(server, rng, tally, began)
        except (OSError, http.client.HTTPException) as exc:
            tally.surprises.append(f"{type(exc).__name__}: {exc}")


def ask(server: Server, rng: random.Random, tally: Tally, began: float) -> None:
    path, body, stream = good(rng)
    at = time.monotonic()
    answer = server.request("POST", path, body)
    if answer.status != 200 or (stream and b'"error"' in answer.body):
        tally.surprises.append(f"{path} {json.dumps(body)[:200]}: {answer.status} {answer.body[:150]!r}")
    tally.count("stream" if stream else "whole")
    with tally.lock:
        tally.latencies.append((at - began, time.monotonic() - at))


def leave(server: Server, rng: random.Random) -> None:
    """Go away at any moment: before the first byte, or after some."""
    path, body, stream = good(rng)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        if stream and rng.random() < 0.5:
            connection.getresponse().read(rng.choice([1, 200, 1000]))
        else:
            time.sleep(rng.random() * 0.05)
