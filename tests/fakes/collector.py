"""A collector, over HTTP and gRPC by OpenTelemetry's own messages. It takes spans, refuses them or never answers.

It stands on the far side of a socket and nowhere else.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True)
class SeenSpan:
    """A span as it came; ids in hexadecimal, times in nanoseconds, `error` if its status is ERROR."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    trace_state: str
    start_ns: int
    end_ns: int
    is_server: bool
    error: bool
    attributes: dict[str, Any]
    events: list[tuple[str, int, dict[str, Any]]]
    resource: dict[str, Any]


class Collector:
    """`answer` says what becomes of the next exports: "take", "refuse" (503, UNAVAILABLE) or "hang"."""

    def __init__(self) -> None:
        self.answer = "take"
        self.spans: list[SeenSpan] = []
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._closed = False
        self._lock = threading.Lock()

    def hangs(self) -> bool:
        """Whether an export is refused; one that is to hang does so until that is over, and is refused then."""
        answer = self.answer
        while self.answer == "hang" and not self._closed:
            time.sleep(0.02)
        return answer != "take"

    def take(self, request: ExportTraceServiceRequest, headers: Iterable[tuple[str, str]]) -> None:
        with self._lock:
            self.raw.append(request.SerializeToString())
            self.headers.append({name.lower(): value for name, value in headers})
            self.spans += _spans(request)

    def close(self) -> None:
        self._closed = True


class HttpCollector(Collector):
    """`url` is a base URL."""

    protocol = "http/protobuf"

    def __init__(self) -> None:
        super().__init__()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != "/v1/traces" or collector.hangs():
                    self.send_response(503 if self.path == "/v1/traces" else 404)
                else:
                    packed = self.headers.get("Content-Encoding") == "gzip"
                    request = ExportTraceServiceRequest.FromString(gzip.decompress(body) if packed else body)
                    collector.take(request, self.headers.items())
                    self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        super().close()
        self._server.shutdown()
        self._server.server_close()


class GrpcCollector(Collector, service.TraceServiceServicer):
    """`url` has the scheme of plain text."""

    protocol = "grpc"

    def __init__(self) -> None:
        super().__init__()
        self._server = grpc.server(ThreadPoolExecutor(2))
        service.add_TraceServiceServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        if self.hangs():
            context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        self.take(request, context.invocation_metadata())
        return ExportTraceServiceResponse()

    def close(self) -> None:
        super().close()
        self._server.stop(None).wait()


def _spans(request: ExportTraceServiceRequest) -> list[SeenSpan]:
    return [
        _seen(span, _values(group.resource.attributes))
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _seen(span: Span, resource: dict[str, Any]) -> SeenSpan:
    assert not span.status.message
    return SeenSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_state,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.kind == Span.SPAN_KIND_SERVER,
        span.status.code == Status.STATUS_CODE_ERROR,
        _values(span.attributes),
        [(event.name, event.time_unix_nano, _values(event.attributes)) for event in span.events],
        resource,
    )


def _values(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind or "")
