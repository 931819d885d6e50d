"""PID 1 with two engines on the CPU: both work, one dies and comes back while the other serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from handler.seam.status import StatusBoard
from tests.support.server import Server

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 16}


def engines(server: Server) -> dict[int, psutil.Process]:
    """By their number."""
    folders = {Path(engine.cmdline()[-1]).parent.name: engine for engine in server.engines()}
    return {int(name.removeprefix("engine-")) if name.startswith("engine-") else 0: e for name, e in folders.items()}


def board(server: Server, index: int) -> StatusBoard:
    return StatusBoard(Path(engines(server)[index].cmdline()[-1]).parent / "board")


@pytest.fixture
def server(tmp_path: Path, tiny_llama: Path, kept: Path) -> Iterator[Server]:
    environ = {"HF_MODEL_ID": str(tiny_llama), "CACHE_DIR": str(kept), "ENGINE_REPLICAS": "2"}
    environ |= {"ENGINE_THREADS": ""}  # its share of the cores
    found = Server(tmp_path / "log", environ)
    try:
        yield found
    finally:
        found.kill()


@pytest.mark.timeout(1200)  # three starts of an engine on a machine that may be busy
def test_one_dies_and_comes_back_while_the_other_serves(server: Server) -> None:
    server.wait(lambda: server.ping() == 200 and server.metric("heir_engines_ready") == 2)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: server.request("POST", "/v1/chat/completions", CHAT), range(8)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["choices"][0]["message"]["content"] for answer in answers}) == 1
    boards = [board(server, index) for index in (0, 1)]
    assert all(each["generated_tokens"] > 2 for each in boards), "both engines have worked"
    assert server.metric("heir_generated_tokens_total") == sum(each["generated_tokens"] for each in boards)

    pings: list[int] = []
    over = threading.Event()

    def keep_pinging() -> None:
        while not over.is_set():
            pings.append(server.ping())
            time.sleep(0.05)

    pinging = threading.Thread(target=keep_pinging)
    pinging.start()
    before = engines(server)
    before[1].kill()
    server.wait(lambda: server.metric("heir_engines_ready") == 1)
    assert server.request("POST", "/v1/chat/completions", CHAT).json["choices"] == answers[0].json["choices"]
    server.wait(lambda: server.metric("heir_engines_ready") == 2)
    over.set()
    pinging.join()
    assert set(pings) == {200}
    after = engines(server)
    assert after[0].pid == before[0].pid
    assert after[1].pid != before[1].pid
    assert server.metric("heir_engine_restarts_total") == 1
    assert server.request("POST", "/v1/chat/completions", CHAT).status == 200
    assert server.stop() == 0
    assert not any(process.is_running() for process in after.values())
