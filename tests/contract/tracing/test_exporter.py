"""The exporter process between a web worker and a collector, by both protocols; what a bad collector costs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from container.monitoring.tracing import counts
from container.monitoring.tracing.exporter import collector as exporter_module
from container.monitoring.tracing.exporter.collector import Collector
from container.monitoring.tracing.sender import SpanSender
from container.run_dir import RunDir
from container.settings import Settings
from container.supervisor.trace_process import exporter_environ
from tests.contract.tracing.exporter import Exporter, a_span
from tests.contract.tracing.traced import sends_to
from tests.fakes.collector import GrpcCollector, HttpCollector
from tests.support.server import free_port

# Long enough that nothing is sent before the process is told to end.
NEVER_MS = 600_000


@pytest.fixture(params=[HttpCollector, GrpcCollector])
def either(request: pytest.FixtureRequest) -> Iterator[HttpCollector | GrpcCollector]:
    with closing(request.param()) as collector:
        yield collector


@pytest.fixture
def collector() -> Iterator[HttpCollector]:
    with closing(HttpCollector()) as collector:
        yield collector


@contextmanager
def started(directory: Path, environ: dict[str, str]) -> Iterator[tuple[Exporter, SpanSender]]:
    exporter = Exporter(directory, environ)
    sender = exporter.sender()
    try:
        yield exporter, sender
    finally:
        sender.close()
        exporter.kill()


def test_spans_arrive_with_what_the_variables_say(either: HttpCollector | GrpcCollector, short_path: Path) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=blue",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=prod,service.version=7",
        "OTEL_SERVICE_NAME": "summaries",
    }
    with started(short_path, sends_to(either) | environ) as (exporter, sender):
        sender.send(a_span(7, parent_flags=1))
        exporter.wait(lambda: bool(either.spans))
        exporter.wait(lambda: exporter.counts() == {"sent": 1})
        (line,) = exporter.lines("INFO")
    (seen,) = either.spans
    assert (seen.trace_id, seen.span_id, seen.parent_id) == (f"{7:032x}", f"{7:016x}", "a" * 16)
    assert seen.attributes == a_span().attributes
    assert [(name, values) for name, _, values in seen.events] == [("queue", {"seconds": 0.25})]
    assert seen.is_server
    assert not seen.error
    wanted = {"service.name": "summaries", "deployment.environment": "prod", "service.version": "7"}
    assert wanted.items() <= seen.resource.items()
    assert either.headers[0]["x-tenant"] == "blue"
    assert either.url in line["message"]


@pytest.mark.parametrize(
    ("environ", "kept"),
    [
        ({}, {2, 4, 5}),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, {2, 4}),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, {1, 2, 3, 4, 5}),
    ],
)
def test_the_sampler_decides_and_by_default_heeds_the_caller(
    collector: HttpCollector, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], kept: set[int]
) -> None:
    settings = Settings.from_environ(sends_to(collector, NEVER_MS))
    for name, value in (exporter_environ(settings, sends_to(collector, NEVER_MS)) | environ).items():
        monkeypatch.setenv(name, value)
    exporting = Collector()
    for number, flags in enumerate([0, 1, 2, 3, None], 1):
        exporting.take(a_span(number, parent_flags=flags))
    exporting.close(60)
    assert {int(span.trace_id, 16) for span in collector.spans} == kept


def test_a_bad_collector_costs_counted_spans_and_one_line(
    either: HttpCollector | GrpcCollector, short_path: Path
) -> None:
    limits = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.3",
        "OTEL_BSP_MAX_QUEUE_SIZE": "4",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2",
    }
    with started(short_path, sends_to(either) | limits) as (exporter, sender):
        for times, answer in enumerate(("refuse", "hang")):
            either.answer = answer
            for number in range(20):
                sender.send(a_span(20 * times + number + 1))
            exporter.wait(lambda times=times: sum(exporter.counts().values()) == 20 * (times + 1))
        assert exporter.counts().keys() == {"export_failed", "queue_full"}
        either.answer = "take"
        sender.send(a_span(99))
        exporter.wait(lambda: exporter.counts().get("sent") == 1)
        (line,) = exporter.lines("WARNING")
        assert "could not be sent" in line["message"]
        assert not exporter.lines("ERROR")
    assert [int(span.trace_id, 16) for span in either.spans] == [99]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_collector_that_is_not_there(protocol: str, short_path: Path) -> None:
    environ = {
        "OTLP_ENDPOINT": f"127.0.0.1:{free_port()}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.3",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
    }
    with started(short_path, environ) as (exporter, sender):
        sender.send(a_span())
        exporter.wait(lambda: exporter.counts() == {"export_failed": 1})
        assert exporter.stop() == 0


class HeldExporter(SpanExporter):
    """The SDK's exporter with a collector that answers once `release` is set; until then it does not end either."""

    def __init__(self) -> None:
        self.release, self.asked, self.answered = threading.Event(), threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.release.wait()
        self.answered.set()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.release.wait()


def test_a_hanging_collector_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldExporter()
    monkeypatch.setattr(exporter_module, "_otlp_exporter", lambda _: held)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    exporting = Collector()
    exporting.take(a_span())
    ending = threading.Thread(target=exporting.close, args=(0.01,), daemon=True)
    ending.start()
    try:
        ending.join(60)
        assert not ending.is_alive()
        assert held.asked.wait(60)
        assert not held.answered.is_set()
    finally:
        held.release.set()
    assert held.answered.wait(60)


def test_without_an_exporter_a_worker_keeps_some_spans_and_counts_the_rest(
    collector: HttpCollector, short_path: Path
) -> None:
    lost = counts._lost.labels(counts.NO_EXPORTER)._value
    before = lost.get()
    sender = SpanSender(RunDir(short_path).spans, reads_parent=True)
    for number in range(1, 1101):
        sender.send(a_span(number))
    kept = 1100 - (lost.get() - before)
    assert 0 < kept < 1100
    with started(short_path, sends_to(collector)) as (exporter, _):
        exporter.wait(lambda: len(collector.spans) == kept)
    sender.close()


def test_a_dead_exporter_is_started_again_and_replaces_the_socket(collector: HttpCollector, short_path: Path) -> None:
    with started(short_path, sends_to(collector)) as (exporter, sender):
        sender.send(a_span(1))
        exporter.wait(lambda: bool(collector.spans))
        first = exporter.process.pid
        exporter.kill()
        sender.send(a_span(2))

        def follows() -> bool:
            exporter.process.check()
            return exporter.process.pid not in {None, first}

        exporter.wait(follows)
        exporter.wait(lambda: len(collector.spans) == 2)
