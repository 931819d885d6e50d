"""Calls an endpoint: plain, streamed, asynchronous. Never retries: only the caller knows if that is safe."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError, ConnectionError, EventStreamError, HTTPClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.calling.sse import SseDecoder
from sagemaker_deploy.errors import ContainerError, InvokeError, StreamBroken, WaitExpired
from sagemaker_deploy.progress import Clock

JSON = "application/json"
MAX_INLINE_ASYNC_BYTES = 128_000
POLL_S = 2.0


class EndpointClient:
    """One endpoint, or the inference component `component` on it.

    All methods raise `ContainerError` for errors of the container (4xx, 5xx) and `InvokeError` for SageMaker's.
    """

    def __init__(
        self, endpoint_name: str, clients: Clients, *, component: str = "", clock: Clock | None = None
    ) -> None:
        self._runtime = clients.runtime
        self._clients = clients
        self._clock = clock or Clock()
        self._target = {"EndpointName": endpoint_name}
        if component:
            self._target["InferenceComponentName"] = component

    def predict(self, data: Mapping[str, Any]) -> Any:
        """Send a body of any dialect (`messages`, `prompt` or `inputs`); return the parsed answer.

        SageMaker allows 60 s; longer generations need `stream` or an asynchronous endpoint.
        """
        with _translated():
            reply = self._runtime.invoke_endpoint(**self._target, Body=json.dumps(data), ContentType=JSON, Accept=JSON)
            return json.loads(reply["Body"].read())

    def stream(self, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Send a body with `stream` set; yield the parsed events as they arrive.

        Closing the iterator early closes the connection, which aborts the generation. Raises `StreamBroken` if the
        stream ends inside an event or, for a chat or a completion, without `[DONE]`.
        """
        with _translated():
            reply = self._runtime.invoke_endpoint_with_response_stream(
                **self._target,
                Body=json.dumps({**data, "stream": True}),
                ContentType=JSON,
                Accept="text/event-stream",
            )
        with contextlib.closing(reply["Body"]) as parts, _translated():
            yield from _events(parts, needs_done="inputs" not in data)

    def stream_text(self, data: Mapping[str, Any]) -> Iterator[str]:
        """Yield the text of a streamed chat, completion or generation, piece by piece."""
        for event in self.stream(data):
            text = event_text(event)
            if text:
                yield text

    def submit(self, data: Mapping[str, Any], *, upload_to: str = "", timeout_s: int = 3600) -> AsyncCall:
        """Start an asynchronous call and return at once.

        A body over 128,000 bytes is first uploaded below `upload_to`, an S3 prefix. Raises `InvokeError` if it is
        missing.
        """
        body = json.dumps(data).encode()
        source: dict[str, Any] = {"Body": body}
        if len(body) > MAX_INLINE_ASYNC_BYTES:
            source = {"InputLocation": self._upload(body, upload_to)}
        target = {"EndpointName": self._target["EndpointName"]}
        with _translated():
            reply = self._runtime.invoke_endpoint_async(
                **target, **source, ContentType=JSON, Accept=JSON, InvocationTimeoutSeconds=timeout_s
            )
        return AsyncCall(reply["OutputLocation"], reply.get("FailureLocation", ""), self._clients, self._clock)

    def _upload(self, body: bytes, prefix: str) -> str:
        if not prefix:
            raise InvokeError(
                f"the body has {len(body)} bytes; SageMaker accepts {MAX_INLINE_ASYNC_BYTES} inline",
                remedy="give an S3 prefix to upload it to",
            )
        uri = f"{prefix.rstrip('/')}/{uuid.uuid4()}.json"
        bucket, key = _split(uri)
        self._clients["s3"].put_object(Bucket=bucket, Key=key, Body=body, ContentType=JSON)
        return uri


@dataclass(frozen=True)
class AsyncCall:
    """A submitted asynchronous call. The answer appears as S3 object `output`, an error as `failure`."""

    output: str
    failure: str
    clients: Clients
    clock: Clock

    def done(self) -> bool:
        """True once the answer or the error exists."""
        return self._get(self.output) is not None or self._get(self.failure) is not None

    def result(self, timeout_s: float = 3600) -> Any:
        """Wait for the parsed answer. Raises `ContainerError` for an error, `WaitExpired` after `timeout_s`."""
        end = self.clock.now_s() + timeout_s
        while True:
            answer = self._get(self.output)
            if answer is not None:
                return json.loads(answer)
            error = self._get(self.failure)
            if error is not None:
                raise ContainerError(0, error.decode(errors="replace"))
            if self.clock.now_s() >= end:
                raise WaitExpired(f"no answer at {self.output} after {timeout_s:.0f} s")
            self.clock.sleep(POLL_S)

    def _get(self, uri: str) -> bytes | None:
        if not uri:
            return None
        bucket, key = _split(uri)
        s3 = self.clients["s3"]
        try:
            return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        except ClientError as exc:
            # Without s3:ListBucket a missing object gives 403, and the caller need not have that permission.
            if exc.response["Error"]["Code"] in ("NoSuchKey", "AccessDenied", "403", "404"):
                return None
            raise


def event_text(event: Mapping[str, Any]) -> str:
    """Return the text in an event of any of the three dialects, "" if it has none."""
    if "token" in event:
        token = event["token"]
        return "" if token.get("special") else str(token.get("text", ""))
    for choice in event.get("choices", ()):
        return str(choice.get("text") or choice.get("delta", {}).get("content") or "")
    return ""


def _events(parts: Any, needs_done: bool) -> Iterator[dict[str, Any]]:
    decoder, done = SseDecoder(), False
    for part in parts:
        for data in decoder.feed(part["PayloadPart"]["Bytes"]):
            if data == "[DONE]":
                done = True
                continue
            event = json.loads(data)
            _raise_error_event(event)
            yield event
    if decoder.pending or (needs_done and not done):
        raise StreamBroken("the stream ended before the answer did")


def _raise_error_event(event: Any) -> None:
    """Raise for an error event: after the first byte a container cannot report an error as a status."""
    error = event.get("error") if isinstance(event, dict) else None
    if error:
        detail = error if isinstance(error, dict) else {}
        code = detail.get("code")
        raise ContainerError(code if isinstance(code, int) else 500, str(detail.get("message") or error))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Translate botocore's errors to the helper's."""
    try:
        yield
    except EventStreamError as exc:
        raise StreamBroken(str(exc)) from exc
    except ClientError as exc:
        if exc.response["Error"]["Code"] == "ModelError":
            status = int(exc.response.get("OriginalStatusCode", 0))
            message = str(exc.response.get("OriginalMessage") or exc)
            raise ContainerError(status, message) from exc
        raise InvokeError(str(exc), remedy=_remedy(exc)) from exc
    except (ConnectionError, HTTPClientError) as exc:
        raise InvokeError(f"the endpoint could not be reached: {exc}") from exc


def _remedy(error: ClientError) -> str:
    text = str(error)
    if "capacity" in text:
        return "the endpoint is scaled to zero; this call wakes it, try again in a few minutes"
    return "see `status`" if "not found" in text else ""


def _split(uri: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(uri)
    return parts.netloc, parts.path.lstrip("/")
