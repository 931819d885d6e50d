"""A user's code beside the engine's routes (row 41): one that misbehaves in every way, and one that adds retrieval."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.faults.conftest import MakeServer, Scoreboard
from tests.support.figures import Sampler, ms, quantile, timed
from tests.support.hooks import write
from tests.support.server import Answer, Server

NUM_CLIENTS = 32
MISBEHAVES = """
    import os, time

    def input_fn(body, content_type):
        return body.decode() if isinstance(body, bytes) else body

    def predict_fn(what, model):
        if what == "sleep":
            time.sleep(3600)
        if what == "spin":
            end = time.monotonic() + 0.4
            while time.monotonic() < end:
                pass
        if what == "raise":
            raise ValueError("on purpose")
        if what == "exit":
            os._exit(9)
        if what == "eat":
            return len([b"x" * 10**7 for _ in range(200)])
        return what
"""
RETRIEVES = """
    import json

    KNOWN = {"ducks": "Ducks swim and fly.", "hens": "Hens lay eggs."}

    def input_fn(body, content_type):
        return json.loads(body)

    def predict_fn(data, model):
        found = " ".join(text for word, text in KNOWN.items() if word in data["question"])
        return model.chat([{"role": "user", "content": f"{found}\\n{data['question']}"}], **data["parameters"])

    def output_fn(prediction, accept):
        return json.dumps(prediction), "application/json"
"""
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 16}


def ask(server: Server, what: str) -> Answer:
    return server.request("POST", "/invocations", what.encode(), Content_Type="text/plain")


def chats(server: Server, stop: threading.Event) -> Iterator[tuple[float, int]]:
    """Seconds and status of one chat after the other."""
    while not stop.is_set():
        seconds, answer = timed(lambda: server.request("POST", "/v1/chat/completions", CHAT))
        yield seconds, answer.status


def chatting(server: Server, meanwhile: Callable[[], None]) -> list[tuple[float, int]]:
    """What four clients of the engine see while something else is done."""
    stop = threading.Event()
    with ThreadPoolExecutor(4) as threads:
        clients = [threads.submit(lambda: list(chats(server, stop))) for _ in range(4)]
        try:
            meanwhile()
        finally:
            stop.set()
        return [one for client in clients for one in client.result()]


@pytest.mark.row(41, bug="container/hooks/host/memory.py: no limit of data: hooks that eat end with 504")
def test_hooks_that_misbehave(make_server: MakeServer, scoreboard: Scoreboard, tmp_path: Path) -> None:
    code = write(tmp_path / "user", {"mine.py": MISBEHAVES})
    environ = {"SAGEMAKER_PROGRAM": "mine.py", "SAGEMAKER_SUBMIT_DIRECTORY": str(code)}
    server = make_server(**environ, HOOK_MAX_MEMORY_MB="700", REQUEST_TIMEOUT_S="10")
    alone = quantile([seconds for seconds, _ in chatting(server, lambda: time.sleep(5))], 0.5)
    for what, status in (("sleep", 504), ("spin", 200), ("raise", 400), ("eat", 500), ("exit", 503)):
        statuses: list[int] = []

        def misbehave(what: str = what, statuses: list[int] = statuses) -> None:
            with ThreadPoolExecutor(8) as threads:
                statuses += [answer.status for answer in threads.map(lambda _: ask(server, what), range(8))]

        with Sampler(server.ping, 0.1) as pings:
            found = chatting(server, misbehave)
        server.wait_ready(60)
        bad = sum(code != 200 for _, code in found)
        slower = quantile([seconds for seconds, _ in found], 0.5) / alone
        seen = f"8 hooks that {what}: {{{', '.join(map(str, sorted(set(statuses))))}}}; {bad} of {len(found)} chats "
        seen += f"failed, {slower:.2f} times as long as alone; slowest /ping {ms(max(pings.seconds, default=0))}"
        is_fine = bad == 0 and set(statuses) <= {status, 503} and max(pings.seconds, default=0) < 2
        scoreboard(41, f"hooks that {what}", "0 chats fail; /ping < 2 s", seen, is_fine)


@pytest.mark.row(41, bug="container/settings.py: HOOK_THREADS is 1: 0.16 of the throughput")
def test_retrieval_keeps_the_engines_throughput(scoreboard: Scoreboard, tmp_path: Path) -> None:
    code = write(tmp_path / "user", {"mine.py": RETRIEVES})
    server = Server(tmp_path / "log", {"SAGEMAKER_PROGRAM": "mine.py", "SAGEMAKER_SUBMIT_DIRECTORY": str(code)})
    parameters = {"max_tokens": 32, "temperature": 0, "ignore_eos": True}

    def through_hook(i: int) -> Any:
        body = {"question": f"What do ducks do on day {i}?", "parameters": parameters}
        return server.request("POST", "/invocations", body).json

    def directly(i: int) -> Any:
        text = f"Ducks swim and fly.\nWhat do ducks do on day {i}?"
        body = {"messages": [{"role": "user", "content": text}]} | parameters
        return server.request("POST", "/v1/chat/completions", body).json

    def round_of(call: Callable[[int], Any]) -> tuple[float, list[str]]:
        with ThreadPoolExecutor(NUM_CLIENTS) as threads:
            seconds, found = timed(lambda: list(threads.map(call, range(2 * NUM_CLIENTS))))
        return seconds, [json.dumps(each["choices"]) for each in found]

    try:
        server.wait_ready()
        round_of(directly)  # prefixes are cached for both
        shares, differ = [], 0
        for _ in range(5):
            direct_s, direct = round_of(directly)
            hook_s, hooked = round_of(through_hook)
            shares.append(direct_s / hook_s)
            differ += sum(one != other for one, other in zip(direct, hooked, strict=True))
    finally:
        server.kill()
    seen = f"{median(shares):.2f} of the throughput without the hook, median of 5 ({min(shares):.2f} to "
    seen += f"{max(shares):.2f}); {differ} of {5 * 2 * NUM_CLIENTS} answers differ"
    reach = ">= 0.9 of the same prompts sent directly; 0 answers differ"
    scoreboard(41, "retrieval, 32 at once", reach, seen, median(shares) >= 0.9 and not differ)
