"""gunicorn's timeout is for a worker that hangs, not for one that waits for the engine."""

from __future__ import annotations

import threading
import time

from tests.contract.seam.web import TEXT, WebServer


def test_a_generation_outlives_the_workers_timeout(impatient: WebServer) -> None:
    engine, goes_on = impatient.engine, threading.Event()
    engine.script = lambda request: iter([goes_on, *engine.says("late")(request)])
    before = impatient.workers()
    running = impatient.open("/generate_stream", TEXT)
    impatient.wait(lambda: len(engine.requests) == 1)
    time.sleep(12)
    assert impatient.ping() == 200
    goes_on.set()
    assert '"generated_text":"late"' in running.rest()[-1]
    assert impatient.workers() == before
    assert "WORKER TIMEOUT" not in impatient.log.read_text()
