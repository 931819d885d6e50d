"""A stand-in for SageMaker's runtime service, to put in front of any container; standard library only.

    with FakeSageMakerRuntime("http://127.0.0.1:8080", cut_bytes=7) as runtime:
        client = boto3.client("sagemaker-runtime", endpoint_url=runtime.url, ...)

It does what the platform does to a request and no more: drops every header outside the API, forwards the body
to `POST /invocations`, turns a container's 4xx and 5xx into a 424 `ModelError`, wraps a chunked reply into
event-stream frames whose boundaries have nothing to do with the container's, and ends calls that run too
long. Signatures are not checked and every endpoint name exists. `AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME` points
unmodified SDK code at `url`.
"""

from __future__ import annotations

import io
import json
import random
import re
import tarfile
import threading
import urllib.parse
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.fakes.async_job import AsyncJob
from tests.fakes.container_call import CallBroken, CallOverran, ContainerCall
from tests.fakes.eventstream import payload_part, stream_error

MAX_INLINE_ASYNC_BYTES = 128_000
RETURNED_HEADERS = (
    "X-Amzn-SageMaker-Custom-Attributes",
    "X-Amzn-SageMaker-New-Session-Id",
    "X-Amzn-SageMaker-Closed-Session-Id",
)
_ROUTE = re.compile(
    r"/endpoints/[^/]+(?:/inference-components/(?P<component>[^/]+))?"
    r"/(?P<operation>invocations|invocations-response-stream|async-invocations|openai/v1/chat/completions)"
)


@dataclass
class FakeSageMakerRuntime:
    """The platform between a client and the container at `container_url`.

    `cut_bytes` seeds random cuts of streamed bytes, through frames and through multi-byte characters; None
    keeps the container's reads whole. The limits default to the platform's and may be scaled down. Async
    calls need `s3_url`, an S3 service that checks no signatures (moto's server does), and write
    below `s3_output`. `forwarded` collects the headers (lower case) of every request that was sent on to the
    container, `calls` those that it began to answer. `adapters` are the components whose calls name an adapter.
    """

    container_url: str
    _: KW_ONLY
    cut_bytes: int | None = None
    invocation_timeout_s: float = 60.0
    stream_timeout_s: float = 480.0
    async_timeout_s: float = 900.0
    connect_timeout_s: float = 0.25
    max_payload_bytes: int = 25 * 2**20
    s3_url: str = ""
    s3_output: str = "s3://fake-runtime/output"
    forwarded: list[dict[str, str]] = field(default_factory=list)
    calls: list[ContainerCall] = field(default_factory=list)
    adapters: set[str] = field(default_factory=set)

    def start(self) -> Self:
        """Listen on a free loopback port; `url` is valid from here on."""
        handler = type("Handler", (_Handler,), {"runtime": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening; calls still running are left to their own timeouts."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Base URL for `endpoint_url` of a `sagemaker-runtime` client."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def call(self, path: str, body: bytes, headers: dict[str, str], limit_s: float) -> ContainerCall:
        """Send a request on to the container; raises as `ContainerCall` does."""
        self.forwarded.append(headers)
        call = ContainerCall(self.container_url, path, body, headers, limit_s, self.connect_timeout_s)
        self.calls.append(call)
        return call

    def load_adapter(self, component: str, archive: bytes, directory: Path) -> tuple[int, str]:
        """Create an adapter component as the platform does: unpack the archive below `directory`, tell the container.

        Returns the container's status and answer; calls to the component name the adapter from then on, whatever the
        container said.
        """
        place = directory / component
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
            files.extractall(place, filter="data")
        query = urllib.parse.urlencode({"name": component, "src": str(place), "preload": "true", "pin": "false"})
        self.adapters.add(component)
        return self._manage("POST", f"/adapters?{query}", component)

    def drop_adapter(self, component: str) -> tuple[int, str]:
        """Delete an adapter component; the container's status and answer."""
        return self._manage("DELETE", f"/adapters/{component}", component)

    def _manage(self, method: str, path: str, component: str) -> tuple[int, str]:
        headers = {"X-Amzn-SageMaker-Adapter-Alias": component}
        call = ContainerCall(self.container_url, path, b"", headers, 60.0, self.connect_timeout_s, method)
        return call.status, call.read().decode()

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Yield `data` in pieces; where they end says nothing about the container's writes."""
        if self.cut_bytes is None:
            yield data
            return
        rng = random.Random(self.cut_bytes ^ zlib.crc32(data))
        while data:
            size = rng.randint(1, 24)
            yield data[:size]
            data = data[size:]


class _Handler(BaseHTTPRequestHandler):
    """One connection of one client; `runtime` is set on a subclass by `FakeSageMakerRuntime.start`."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    runtime: ClassVar[FakeSageMakerRuntime]
    component = ""

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        route = _ROUTE.fullmatch(urllib.parse.urlsplit(self.path).path)
        if route is None:
            return self._service_error(404, "UnknownOperationException", self.path)
        if len(body) > self.runtime.max_payload_bytes:
            return self._service_error(413, "ValidationError", f"Request size {len(body)} exceeds the limit")
        self.component = route["component"] or self.headers.get("X-Amzn-SageMaker-Inference-Component", "")
        serve = {
            "invocations": self._invoke,
            "invocations-response-stream": self._invoke_stream,
            "async-invocations": self._invoke_async,
            "openai/v1/chat/completions": self._openai,
        }[route["operation"]]
        try:
            return serve(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _invoke(self, body: bytes) -> None:
        try:
            call = self.runtime.call("/invocations", body, self._kept(), self.runtime.invocation_timeout_s)
            reply = call.read()
        except CallOverran:
            return self._model_error(0, "Your invocation timed out while waiting for a response from container")
        except CallBroken as exc:
            return self._model_error(0, str(exc))
        if call.status >= 400:
            return self._model_error(call.status, reply.decode(errors="replace"))
        kept = {name: call.headers[name] for name in RETURNED_HEADERS if name in call.headers}
        kept["Content-Type"] = call.headers.get("Content-Type", "application/octet-stream")
        return self._send(200, reply, kept | {"x-Amzn-Invoked-Production-Variant": "AllTraffic"})

    def _invoke_stream(self, body: bytes) -> None:
        try:
            call = self.runtime.call("/invocations", body, self._kept(), self.runtime.stream_timeout_s)
            if call.status >= 400:
                return self._model_error(call.status, call.read().decode(errors="replace"))
        except CallOverran:
            return self._model_error(0, "Your invocation timed out while waiting for a response from container")
        except CallBroken as exc:
            return self._model_error(0, str(exc))
        self._start_chunks(
            "application/vnd.amazon.eventstream",
            {"X-Amzn-SageMaker-Content-Type": call.headers.get("Content-Type", "application/octet-stream")},
        )
        for frame in self._frames(call):
            self._write_chunks(frame)
        return self._end_chunks()

    def _frames(self, call: ContainerCall) -> Iterator[bytes]:
        try:
            for data in call.chunks():
                yield from map(payload_part, self.runtime.cut(data))
        except CallOverran:
            yield stream_error("ModelInvocationTimeExceeded", "Model invocation time exceeded")
        except CallBroken:
            yield stream_error("StreamBroken", "Connection to the container was broken")

    def _openai(self, body: bytes) -> None:
        """The OpenAI front door: a bearer token in, `/v1/chat/completions` out, SSE passed through as it
        comes.
        """
        if not self.headers.get("Authorization", "").startswith("Bearer sagemaker-api-key-"):
            error = {"error": {"message": "Invalid bearer token", "code": "invalid_api_key"}}
            return self._send(401, json.dumps(error).encode(), {"Content-Type": "application/json"})
        try:
            call = self.runtime.call("/v1/chat/completions", body, self._kept(), self.runtime.stream_timeout_s)
        except (CallOverran, CallBroken) as exc:
            error = {"error": {"message": f"Received server error (0) from primary: {exc}", "code": "model_error"}}
            return self._send(424, json.dumps(error).encode(), {"Content-Type": "application/json"})
        if call.status >= 400:
            quoted = f'Received error ({call.status}) from primary with message "{call.read().decode()}"'
            error = {"error": {"message": quoted, "code": "model_error"}}
            return self._send(call.status, json.dumps(error).encode(), {"Content-Type": "application/json"})
        self._start_chunks(call.headers.get("Content-Type", "application/json"), {})
        for data in call.chunks():
            self._write_chunks(data)
        return self._end_chunks()

    def _invoke_async(self, body: bytes) -> None:
        if len(body) > MAX_INLINE_ASYNC_BYTES:
            return self._service_error(400, "ValidationError", "Inline body exceeds 128000 bytes")
        inference_id = self.headers.get("X-Amzn-SageMaker-Inference-Id") or str(uuid.uuid4())
        output = f"{self.runtime.s3_output}/{inference_id}.out"
        failure = f"{self.runtime.s3_output}-failures/{inference_id}.out"
        headers = self._kept()
        content_type = headers.pop("x-amzn-sagemaker-content-type", "")
        source = headers.pop("x-amzn-sagemaker-inputlocation", "")
        job = AsyncJob(self.runtime, headers, source, output, failure)
        threading.Thread(target=job.run, args=(body, content_type), daemon=True).start()
        places = {"X-Amzn-SageMaker-OutputLocation": output, "X-Amzn-SageMaker-FailureLocation": failure}
        reply = json.dumps({"InferenceId": inference_id}).encode()
        return self._send(202, reply, places | {"Content-Type": "application/json"})

    def _kept(self) -> dict[str, str]:
        """Everything outside the API is dropped, `Authorization` first of all; streams name Accept
        differently.
        """
        kept = {
            name.lower(): value
            for name, value in self.headers.items()
            if name.lower() in ("content-type", "accept") or name.lower().startswith("x-amzn-sagemaker-")
        }
        kept.pop("x-amzn-sagemaker-adapter-identifier", None)
        if self.component in self.runtime.adapters:
            kept["x-amzn-sagemaker-adapter-identifier"] = self.component
        accept = kept.pop("x-amzn-sagemaker-accept", None)
        return kept if accept is None else kept | {"accept": accept}

    def _model_error(self, status: int, message: str) -> None:
        side = "client" if 400 <= status < 500 else "server"
        text = f'Received {side} error ({status}) from primary with message "{message}".'
        body = {
            "ErrorCode": f"{side.upper()}_ERROR_FROM_MODEL",
            "LogStreamArn": "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/fake",
            "Message": text[:2048],
            "OriginalMessage": message[:2048],
            "OriginalStatusCode": status,
        }
        self._service_error(424, "ModelError", **body)

    def _service_error(self, http_status: int, error: str, message: str = "", **body: Any) -> None:
        headers = {"x-amzn-errortype": error, "Content-Type": "application/json"}
        self._send(http_status, json.dumps(body or {"Message": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _start_chunks(self, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Type": content_type, "Transfer-Encoding": "chunked"}.items():
            self.send_header(name, value)
        self.send_header("x-Amzn-Invoked-Production-Variant", "AllTraffic")
        self.end_headers()

    def _write_chunks(self, data: bytes) -> None:
        for piece in self.runtime.cut(data):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.flush()

    def _end_chunks(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
