"""What the exporter process, where OpenTelemetry's SDK reads `OTEL_*` itself, is told of TGI's variables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

from container.settings import Settings, SettingsError
from container.supervisor import launcher
from container.supervisor.trace_process import exporter_environ
from container.version import VERSION

ROOT = Path(__file__).resolve().parents[3]
ENDPOINT, TRACES, PROTOCOL = (
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OTLP_ENDPOINT": "http://c:4317"}, {ENDPOINT: "http://c:4317", PROTOCOL: "grpc"}),
        ({"OTLP_ENDPOINT": "c:9"}, {ENDPOINT: "http://c:9", PROTOCOL: "grpc"}),
        ({"OTLP_ENDPOINT": "grpc://c:9"}, {ENDPOINT: "http://c:9", PROTOCOL: "grpc"}),
        ({"OTLP_ENDPOINT": "https://c"}, {ENDPOINT: "https://c", PROTOCOL: "grpc"}),
        (
            {"OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", TRACES: "http://d"},
            {ENDPOINT: "http://c:4318", PROTOCOL: "http/protobuf"},
        ),
        ({ENDPOINT: "http://c:4318"}, {ENDPOINT: "http://c:4318", PROTOCOL: "http/protobuf"}),
        ({ENDPOINT: "https://c/otlp"}, {ENDPOINT: "https://c/otlp", PROTOCOL: "http/protobuf"}),
        ({ENDPOINT: "http://c:4317"}, {ENDPOINT: "http://c:4317", PROTOCOL: "grpc"}),
        ({ENDPOINT: "c:4317"}, {ENDPOINT: "http://c:4317", PROTOCOL: "grpc"}),
        ({ENDPOINT: "grpc://c:4317"}, {ENDPOINT: "http://c:4317", PROTOCOL: "grpc"}),
        ({ENDPOINT: "grpc://c:9"}, {ENDPOINT: "http://c:9", PROTOCOL: "grpc"}),
        ({ENDPOINT: "c:4318"}, {ENDPOINT: "http://c:4318", PROTOCOL: "http/protobuf"}),
        ({TRACES: "c:4317"}, {TRACES: "http://c:4317", PROTOCOL: "grpc"}),
        ({TRACES: "c:4318/v1/traces"}, {TRACES: "http://c:4318/v1/traces", PROTOCOL: "http/protobuf"}),
        ({TRACES: "", ENDPOINT: " c:4318 "}, {ENDPOINT: "http://c:4318", PROTOCOL: "http/protobuf"}),
        ({ENDPOINT: "http://c", TRACES: "http://d/x"}, {TRACES: "http://d/x", PROTOCOL: "http/protobuf"}),
        ({ENDPOINT: "http://c", PROTOCOL: "grpc"}, {ENDPOINT: "http://c", PROTOCOL: "grpc"}),
    ],
)
def test_where_spans_go_and_how(environ: dict[str, str], told: dict[str, str]) -> None:
    settings = Settings.from_environ(environ)
    assert settings.traced
    found = exporter_environ(settings, environ)
    assert told.items() <= found.items()
    assert (TRACES in found) == (TRACES in told)


@pytest.mark.parametrize(
    ("name", "endpoint", "protocol"),
    [
        *((name, f"{scheme}c:9", "grpc") for name in (ENDPOINT, TRACES) for scheme in ("", "grpc://", "http://")),
        *((name, f"{scheme}c:9", "http/protobuf") for name in (ENDPOINT, TRACES) for scheme in ("", "http://")),
    ],
)
def test_the_sdk_speaks_without_tls_to_an_endpoint_that_does_not_say_https(
    name: str, endpoint: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {name: endpoint, PROTOCOL: protocol}
    for key, value in exporter_environ(Settings.from_environ(environ), environ).items():
        monkeypatch.setenv(key, value)
    if protocol == "grpc":
        exporter = GrpcExporter()
        assert exporter._endpoint == "c:9"
        assert exporter._insecure
        exporter.shutdown()
    else:
        assert HttpExporter()._endpoint in ("http://c:9", "http://c:9/v1/traces")


@pytest.mark.parametrize(
    ("environ", "name", "attributes"),
    [
        ({}, "text-generation-inference.router", f"service.version={VERSION}"),
        ({"OTLP_SERVICE_NAME": "a", "OTEL_SERVICE_NAME": "b"}, "a", f"service.version={VERSION}"),
        ({"OTEL_SERVICE_NAME": "b", "OTEL_RESOURCE_ATTRIBUTES": "x=y"}, "b", f"x=y,service.version={VERSION}"),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=c,service.version=1"},
            None,
            "service.name=c,service.version=1",
        ),
    ],
)
def test_what_the_service_is_called(environ: dict[str, str], name: str | None, attributes: str) -> None:
    given = environ | {"OTLP_ENDPOINT": "c:1"}
    found = exporter_environ(Settings.from_environ(given), given)
    assert found.get("OTEL_SERVICE_NAME") == name
    assert found["OTEL_RESOURCE_ATTRIBUTES"] == attributes


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTLP_SERVICE_NAME": "x"},
        {"OTLP_ENDPOINT": ""},
        {"OTLP_ENDPOINT": "c:1", "OTEL_SDK_DISABLED": "true"},
        {"OTLP_ENDPOINT": "c:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_an_endpoint_and_where_turned_off_nothing_is_sent(environ: dict[str, str]) -> None:
    assert not Settings.from_environ(environ).traced


@pytest.mark.parametrize("endpoint", ["http://", "http:// c", "c?key=x", "://c", "@:"])
def test_an_endpoint_that_is_none_stops_the_start(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="OTLP_ENDPOINT must be a URL"):
        Settings.from_environ({"OTLP_ENDPOINT": endpoint})


def test_a_protocol_of_others_stops_the_start() -> None:
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    assert not Settings.from_environ(environ).traced
    with pytest.raises(SettingsError, match="must be grpc or http/protobuf"):
        Settings.from_environ({**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})


@pytest.mark.parametrize(
    ("given", "read", "ignored"),
    [("", True, ""), ("b3,tracecontext", True, "b3"), ("baggage, none", False, ""), ("xray", False, "xray")],
)
def test_propagators(given: str, read: bool, ignored: str) -> None:
    environ = {"OTEL_PROPAGATORS": given}
    assert Settings.from_environ(environ).reads_traceparent == read
    assert [line.split()[0] for line in launcher.check(environ)] == ([ignored] if ignored else [])


def test_neither_pid_1_nor_a_web_worker_loads_opentelemetry() -> None:
    code = "import sys, container.serve, container.app; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert "flask" in loaded
    assert not loaded & {"opentelemetry", "grpc", "google"}
