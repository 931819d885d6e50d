"""What the platform does with one asynchronous call, between the 202 and the object in S3."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from typing import Protocol

from tests.fakes.container_call import CallBroken, CallOverran, ContainerCall


class Platform(Protocol):
    """The part of the fake runtime that a job needs."""

    s3_url: str
    async_timeout_s: float

    def call(self, path: str, body: bytes, headers: dict[str, str], limit_s: float) -> ContainerCall: ...


@dataclass
class AsyncJob:
    """One asynchronous call: fetch the input, invoke the container, put the reply or the error into S3."""

    runtime: Platform
    headers: dict[str, str]
    source: str
    output: str
    failure: str

    def run(self, body: bytes, content_type: str) -> None:
        if self.source:
            body, content_type = self._s3("GET", self.source)
        headers = dict(self.headers)
        headers.pop("content-type", None)
        if content_type:
            headers["content-type"] = content_type
        try:
            call = self.runtime.call("/invocations", body, headers, self.runtime.async_timeout_s)
            reply, failed = call.read(), call.status >= 400
        except (CallOverran, CallBroken) as exc:
            reply, failed = f"Received server error (0) from model: {exc!r}".encode(), True
        self._s3("PUT", self.failure if failed else self.output, reply)

    def _s3(self, method: str, uri: str, body: bytes | None = None) -> tuple[bytes, str]:
        place = uri.removeprefix("s3://")
        # urllib's own Content-Type makes moto read the body as a form; whoever names no account sees no objects.
        headers = {"Content-Type": "application/octet-stream", "Authorization": "AWS testing:unchecked"}
        request = urllib.request.Request(f"{self.runtime.s3_url}/{place}", body, headers, method=method)
        with urllib.request.urlopen(request) as reply:
            return reply.read(), reply.headers.get("Content-Type", "")
