"""The process that sends spans to the collector, as PID 1 runs it: started with tracing only, restarted when it dies.

The container serves without it: what it does not take is counted and lost.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from container.run_dir import RunDir
from container.settings import Settings
from container.supervisor.engine_process import stop
from container.version import VERSION

logger = logging.getLogger(__name__)

# TGI's name for itself in traces (launcher/src/main.rs).
_TGI_SERVICE_NAME = "text-generation-inference.router"
_TGI_ENDPOINT, _TRACES_ENDPOINT, _ENDPOINT = _ENDPOINTS = (
    *("OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
)
_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
_GRPC_PORT = 4317
_BACKOFF_S = (1.0, 5.0, 30.0, 60.0)
# A process that ran for so long was well: its death is the first again.
_HEALTHY_S = 600.0
# The process flushes for 1.5 s after SIGTERM.
_STOP_S = 2.0
_SHORT_STOP_S = 0.5


def exporter_environ(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` for the exporter process, where the SDK reads all `OTEL_*` variables itself.

    The endpoint is the first of the three variables that is not empty, as in `Settings`. TGI's becomes the SDK's base
    URL. The SDK gets a URL in every case: an endpoint without a scheme, or with vLLM's `grpc`, becomes `http`, which is
    without TLS, as in TGI.
    """
    found = {name: value for name, value in environ.items() if name not in (_TRACES_ENDPOINT, _ENDPOINT)}
    given = next((name for name in _ENDPOINTS if environ.get(name, "").strip()), _ENDPOINT)
    scheme, _, address = settings.otlp_endpoint.rpartition("://")
    url = f"http://{address}" if scheme in ("", "grpc") else settings.otlp_endpoint
    found[_TRACES_ENDPOINT if given == _TRACES_ENDPOINT else _ENDPOINT] = url
    is_grpc = given == _TGI_ENDPOINT or scheme == "grpc"
    found[_PROTOCOL] = settings.otlp_protocol or ("grpc" if is_grpc else _protocol(address))
    resource = [item for item in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",") if item.strip()]
    named = {item.partition("=")[0].strip() for item in resource}
    if settings.otlp_service_name:
        found["OTEL_SERVICE_NAME"] = settings.otlp_service_name
    elif "service.name" not in named:
        found["OTEL_SERVICE_NAME"] = _TGI_SERVICE_NAME
    if "service.version" not in named:
        resource.append(f"service.version={VERSION}")
    found["OTEL_RESOURCE_ATTRIBUTES"] = ",".join(resource)
    return found


def _protocol(address: str) -> str:
    """OpenTelemetry's default is HTTP, but to gRPC's own port nobody means it."""
    host_and_port = address.partition("/")[0]
    return "grpc" if host_and_port.endswith(f":{_GRPC_PORT}") else "http/protobuf"


class TraceProcess:
    """Starts the exporter process, watches and restarts it. Call `check()` a few times a second."""

    def __init__(self, settings: Settings, run_dir: RunDir) -> None:
        """Starts nothing."""
        self._run_dir = run_dir
        self._environ = exporter_environ(settings, os.environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._due_s = self._started_s = 0.0
        self._num_deaths = 0

    @property
    def pid(self) -> int | None:
        """Process id; None while no process runs."""
        return None if self._process is None else self._process.pid

    def check(self) -> None:
        """Start the process if it is due; notice its death."""
        if self._process is None:
            if time.monotonic() >= self._due_s:
                self._start()
        elif self._process.poll() is not None:
            if time.monotonic() - self._started_s >= _HEALTHY_S:
                self._num_deaths = 0
            wait_s = _BACKOFF_S[min(self._num_deaths, len(_BACKOFF_S) - 1)]
            logger.error(
                "the process that sends traces ended with code %s, next in %d s", self._process.returncode, wait_s
            )
            self._num_deaths += 1
            self._due_s = time.monotonic() + wait_s
            self._process = None

    def _start(self) -> None:
        environ = {**self._environ, **self._run_dir.metrics_environ()}
        command = [sys.executable, "-m", "container.monitoring.tracing.exporter", str(self._run_dir.spans)]
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(command, env=environ, start_new_session=True)  # noqa: S603 - our own module

    def close(self, left_s: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Stop the process once the web workers have ended; it sends what it has within `left_s`, 0.5 to 2 s."""
        stop(self._process, min(_STOP_S, max(_SHORT_STOP_S, left_s)), hurried)
