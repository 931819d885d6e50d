"""Spans to the collector, by OpenTelemetry's SDK: sampled, batched, bounded, counted. The SDK reads `OTEL_*` itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from container.monitoring.tracing.counts import EXPORT_FAILED, QUEUE_FULL, count_dropped, count_exported
from container.monitoring.tracing.exporter.failure_log import FailureLog
from container.monitoring.tracing.span import Span
from container.version import VERSION

_NAME = "tgi-heir"
_MAX_WAITING = 2048


class Collector:
    """The far side. Sending runs on the SDK's own thread; nothing here waits for it."""

    def __init__(self) -> None:
        self.protocol = os.environ[OTEL_EXPORTER_OTLP_TRACES_PROTOCOL]
        self._queue = _CountedExporter(_otlp_exporter(self.protocol), max_waiting := _max_waiting())
        self._ids = _GivenIds()
        self._provider = TracerProvider(id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._queue, max_waiting))
        self._tracer = self._provider.get_tracer(_NAME, VERSION)

    @property
    def address(self) -> str:
        """The collector, without what a URL may hold beside its host and path."""
        endpoint = os.environ.get(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) or os.environ[OTEL_EXPORTER_OTLP_ENDPOINT]
        return endpoint.replace(urlsplit(endpoint).netloc, urlsplit(endpoint).netloc.rpartition("@")[2], 1)

    def take(self, span: Span) -> None:
        """Queue a span if the sampler wants it; one for which the queue has no room is counted and lost."""
        self._ids.span = span
        found = self._tracer.start_span(
            span.name, _parent(span), SpanKind.SERVER, span.attributes, start_time=span.start_ns
        )
        if not found.is_recording():
            return
        if found.get_span_context().trace_flags.sampled and not self._queue.reserve():
            return
        for event in span.events:
            found.add_event(event.name, {"seconds": event.seconds}, event.at_ns)
        if span.error:
            found.set_status(Status(StatusCode.ERROR))
        found.end(span.end_ns)

    def close(self, timeout_s: float) -> None:
        """Send what is queued, within `timeout_s` seconds or not at all."""
        # The SDK would wait for 30 s.
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(timeout_s)


def _max_waiting() -> int:
    """The SDK's own bound, which it does not show."""
    given = os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE, "")
    return int(given) if given.isdecimal() and int(given) else _MAX_WAITING


def _otlp_exporter(protocol: str) -> SpanExporter:
    """The SDK's exporter. Only one of the two is imported: gRPC takes 15 MB of memory."""
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

    return OverHttp()


def _parent(span: Span) -> Context:
    """The caller's span; an empty context if there is none."""
    if not span.parent_id:
        return Context()
    context = SpanContext(
        int(span.trace_id, 16),
        int(span.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(span.parent_flags),
        trace_state=TraceState.from_header([span.trace_state]),
    )
    return set_span_in_context(NonRecordingSpan(context), Context())


class _GivenIds(IdGenerator):
    """The ids that the web worker has chosen, and written into its log."""

    span: Span

    def generate_trace_id(self) -> int:
        return int(self.span.trace_id, 16)

    def generate_span_id(self) -> int:
        return int(self.span.span_id, 16)

    def is_trace_id_random(self) -> bool:
        return True


class _CountedExporter(SpanExporter):
    """The SDK's exporter, with a count of the spans on their way to it.

    The SDK drops the oldest span of a full queue and does not say so; `reserve` refuses the newest before that.
    """

    def __init__(self, exporter: SpanExporter, max_waiting: int) -> None:
        self._exporter = exporter
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._lock = threading.Lock()
        self._log = FailureLog()

    def reserve(self) -> bool:
        """Whether one more span may be queued."""
        with self._lock:
            if self._num_waiting >= self._max_waiting:
                count_dropped(QUEUE_FULL)
                return False
            self._num_waiting += 1
            return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self._num_waiting -= len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                count_exported(len(spans))
            else:
                count_dropped(EXPORT_FAILED, len(spans))
                self._log.lost(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
