"""A web side that traces, and what it sent."""

from __future__ import annotations

from pathlib import Path

from tests.contract.seam.web import WebServer
from tests.fakes.collector import GrpcCollector, HttpCollector, SeenSpan


class TracedServer(WebServer):
    """`WebServer` whose spans go to `collector`."""

    def __init__(self, directory: Path, collector: HttpCollector) -> None:
        self.collector = collector
        super().__init__(directory, {"WEB_WORKERS": "1", "OTLP_SERVICE_NAME": "tested", **sends_to(collector)})

    def span(self, name: str, value: str | None) -> SeenSpan:
        """The one span that has this attribute."""

        def found() -> list[SeenSpan]:
            return [each for each in self.collector.spans if each.attributes.get(name) == value]

        self.wait(lambda: bool(found()))
        (span,) = found()
        return span


def sends_to(collector: HttpCollector | GrpcCollector, delay_ms: int = 50) -> dict[str, str]:
    """Variables of a container that sends its spans there, every `delay_ms` milliseconds."""
    return {
        "OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": collector.protocol,
        "OTEL_BSP_SCHEDULE_DELAY": str(delay_ms),
    }
