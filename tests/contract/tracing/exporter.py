"""The exporter process alone, as PID 1 starts it; the test is the web worker that sends to it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from container.monitoring.tracing.sender import SpanSender
from container.monitoring.tracing.span import Event, Span
from container.run_dir import RunDir
from container.settings import Settings
from container.supervisor.trace_process import TraceProcess
from tests.contract.seam.web import output_to


class Exporter:
    """Its socket, its counts and its log are in `directory`."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self.log = directory / "exporter-log"
        self._directory = directory
        with mock.patch.dict(os.environ, {"JSON_OUTPUT": "true"} | environ):
            self.process = TraceProcess(Settings.from_environ(environ), RunDir(directory))
        with self.log.open("wb") as log, output_to(log.fileno()):
            self.process.check()

    def sender(self) -> SpanSender:
        return SpanSender(RunDir(self._directory).spans, reads_parent=True)

    def counts(self) -> dict[str, float]:
        """Spans that were sent, as "sent", and that were lost, by reason."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._directory))  # type: ignore[no-untyped-call]
        samples = [sample for metric in registry.collect() for sample in metric.samples if sample.value]
        return {sample.labels.get("reason", "sent"): sample.value for sample in samples if "_spans_" in sample.name}

    def lines(self, level: str) -> list[dict[str, Any]]:
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [line for line in map(json.loads, whole.splitlines()) if line["level"] == level]

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, (self.counts(), self.log.read_text()[-3000:])
            time.sleep(0.02)

    def stop(self) -> int:
        """Send SIGTERM once it takes spans; the exit code."""
        self.wait(lambda: bool(self.lines("INFO")))
        assert self.process.pid is not None
        found = psutil.Process(self.process.pid)
        found.send_signal(signal.SIGTERM)
        return int(found.wait(60))

    def kill(self) -> None:
        self.process.close(0, hurried=lambda: True)


def a_span(number: int = 1, *, parent_flags: int | None = None) -> Span:
    """A span of a trace of its own, or with a parent whose flags are given."""
    return Span(
        name="POST /x",
        trace_id=f"{number:032x}",
        span_id=f"{number:016x}",
        parent_id="" if parent_flags is None else "a" * 16,
        parent_flags=parent_flags or 0,
        trace_state="",
        start_ns=time.time_ns(),
        end_ns=time.time_ns() + 10,
        attributes={"heir.outcome": "ok", "gen_ai.response.finish_reasons": ["eos", "length"], "share": 0.5, "n": 2},
        events=[Event("queue", time.time_ns(), 0.25)],
    )
