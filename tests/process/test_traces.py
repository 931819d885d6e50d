"""PID 1 with the process that sends spans: started by TGI's argument, started again, ended last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.fakes.collector import GrpcCollector
from tests.support.server import Server, lives, processes_below

CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def collector() -> Iterator[GrpcCollector]:
    with closing(GrpcCollector()) as collector:
        yield collector


def test_what_was_asked_until_the_end_is_sent_before_the_end(
    collector: GrpcCollector, tmp_path: Path, tiny_llama: Path
) -> None:
    environ = {
        "HF_MODEL_ID": str(tiny_llama),
        "WEB_WORKERS": "1",
        "OTLP_ENDPOINT": collector.url,
        # Nothing would be sent before the end.
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
    }
    server = Server(tmp_path / "log", environ)

    def exporters() -> list[psutil.Process]:
        return processes_below(server.process.pid, "container.monitoring.tracing.exporter")

    try:
        server.wait(lambda: server.ping() == 503 and bool(exporters()))
        (first,) = exporters()
        first.kill()
        server.wait(lambda: any(exporters()) and exporters() != [first])
        (second,) = exporters()
        server.wait(lambda: any(f'"pid": {second.pid}' in line for line in server.log.read_text().splitlines()))
        # The engine may have started by now or not.
        answer = server.request("POST", "/v1/chat/completions", CHAT)
        assert server.stop() == 0
        assert not lives(second)
    finally:
        server.kill()
    assert "Traceback" not in server.log.read_text()
    (span,) = collector.spans
    assert span.attributes["gen_ai.request.id"] == answer.headers["X-Request-Id"]
    assert (span.attributes["http.response.status_code"], span.error) == (answer.status, answer.status == 503)
    assert span.resource["service.name"] == "text-generation-inference.router"
