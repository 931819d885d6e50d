"""From nothing to the first answer."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Scoreboard
from tests.support.server import Server


@pytest.mark.row(8, bug="container/api/server/health.py: /ping is 200 while the model loads")
def test_cold_start(scoreboard: Scoreboard, tiny_llama: Path, tmp_path: Path) -> None:
    """The engine logs when it is ready, which is after it has generated a token; /ping must not be quicker."""
    started = time.monotonic()
    server = Server(tmp_path / "log", {"HF_MODEL_ID": str(tiny_llama)})
    try:
        seen: list[tuple[float, int]] = []
        while not seen or seen[-1][1] != 200:
            status = server.ping()
            seen.append((time.monotonic() - started, status))
            assert seen[-1][0] < 120, server.log.read_text()[-2000:]
            time.sleep(0.02)
        first = next(at for at, status in seen if status)
        ready = seen[-1][0]
        warm = server.request("GET", "/metrics").body.decode()
        loaded = float(re.findall(r"ready in ([\d.]+) s", server.log.read_text())[0])
        in_between = {status for _, status in seen} - {0, 503, 200}
    finally:
        server.kill()
    ok = first <= 1.0 and not in_between and ready <= first + loaded + 2.0 and "heir" in warm
    text = f"/ping 503 after {first:.2f} s; 200 {ready - loaded:.2f} s after a load of {loaded:.1f} s"
    scoreboard(8, "tiny model", "", text, ok)
