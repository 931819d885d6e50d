"""One worker, one long piece of work: /ping is answered all the while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.contract.openai.scripted import ScriptedServer

# A machine that is very busy may keep one ping waiting by itself, hardly so often in a row.
ATTEMPTS = 10


def share_of_the_longest_ping(server: ScriptedServer, work: Callable[[], Any]) -> tuple[float, Any]:
    """How much of the time that `work` took the slowest /ping of that time waited, from 0 to 1; and what `work` gave.

    A worker that does the work itself lets one ping wait for nearly all of it, on a busy machine as on a quiet one.
    """
    found: list[Any] = []
    longest_s = 0.0
    thread = threading.Thread(target=lambda: found.append(work()))
    started_s = time.monotonic()
    thread.start()
    while thread.is_alive():
        asked_s = time.monotonic()
        assert server.request("GET", "/ping").status == 200
        longest_s = max(longest_s, time.monotonic() - asked_s)
    thread.join()
    return longest_s / (time.monotonic() - started_s), found[0]


@pytest.mark.parametrize(
    ("path", "field"),
    [("/invocations", "inputs"), ("/v1/chat/completions", ""), ("/tokenize", "inputs"), ("/tokenize", "prompt")],
)
def test_a_text_of_megabytes_is_tokenized_aside(plain: ScriptedServer, path: str, field: str) -> None:
    text = "word " * 80_000
    body: Any = {field: text} if field else {"messages": [{"role": "user", "content": text}]}
    for _ in range(ATTEMPTS):
        share, answer = share_of_the_longest_ping(plain, lambda: plain.request("POST", path, body, timeout=150))
        if path == "/tokenize":
            assert answer.status == 200
        else:
            assert answer.status in {400, 422}, answer.body
            assert b"must have less than" in answer.body
        if share < 0.5:
            return
    raise AssertionError(f"/ping waited for {share:.0%} of the time, {ATTEMPTS} times")


@pytest.mark.parametrize("kind", ["memory", "time"])
def test_a_template_that_explodes_is_an_error(server_for: Callable[[str], ScriptedServer], kind: str) -> None:
    server = server_for("bomb")
    server.engine.says("ok")
    assert server.ok("hello")["choices"][0]["message"]["content"] == "ok"
    _, answer = share_of_the_longest_ping(server, lambda: server.chat(kind))
    assert (answer.status, answer.json["error"]["code"]) == (400, "template_error")
    assert server.ok("hello")["choices"][0]["message"]["content"] == "ok"
    (worker,) = psutil.Process(server.process.pid).children()
    assert worker.memory_info().rss < 400 << 20
