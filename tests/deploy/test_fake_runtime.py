"""The fake platform itself, through an unmodified botocore."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from tests.deploy.stand_in import BOOM, DROP, HANG
from tests.fakes.sagemaker_runtime import FakeSageMakerRuntime

CHAT = {"messages": [{"role": "user", "content": "hé"}], "max_tokens": 8}


def client(runtime: FakeSageMakerRuntime) -> Any:
    config = Config(retries={"max_attempts": 0}, read_timeout=60)
    return boto3.client("sagemaker-runtime", endpoint_url=runtime.url, config=config)


def ask(text: str, **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], **more}).encode()


def test_invoke_returns_the_containers_body_and_attributes(runtime: FakeSageMakerRuntime) -> None:
    reply = client(runtime).invoke_endpoint(
        EndpointName="ep", Body=json.dumps(CHAT), ContentType="application/json", CustomAttributes="trace=1"
    )
    (call,) = runtime.calls
    body = reply["Body"].read()
    assert body == call.received
    assert json.loads(body)["usage"]["completion_tokens"] > 0
    assert reply["InvokedProductionVariant"] == "AllTraffic"
    assert reply["ContentType"].startswith("application/json")


def test_only_headers_of_the_api_reach_the_container(runtime: FakeSageMakerRuntime) -> None:
    client(runtime).invoke_endpoint(EndpointName="ep", Body=json.dumps(CHAT), ContentType="application/json")
    assert runtime.forwarded == [{"content-type": "application/json"}]


def test_a_stream_is_cut_anywhere_and_joins_to_the_same_bytes(runtime: FakeSageMakerRuntime) -> None:
    body = json.dumps(CHAT | {"stream": True})
    reply = client(runtime).invoke_endpoint_with_response_stream(
        EndpointName="ep", Body=body, ContentType="application/json", Accept="text/event-stream"
    )
    parts = [event["PayloadPart"]["Bytes"] for event in reply["Body"]]
    joined = b"".join(parts)
    assert reply["ContentType"].startswith("text/event-stream")
    assert joined.decode().endswith("data: [DONE]\n\n")
    assert any(not part.endswith(b"\n") for part in parts)
    assert runtime.forwarded[0]["accept"] == "text/event-stream"


def test_some_cut_splits_a_character(stand_in_url: str) -> None:
    runtime = FakeSageMakerRuntime(stand_in_url, cut_bytes=1)
    pieces = list(runtime.cut("雪だるま".encode() * 20))
    assert b"".join(pieces).decode() == "雪だるま" * 20
    assert any(len(piece) % 3 for piece in pieces)


@pytest.mark.parametrize(("text", "status"), [(BOOM, 500), (7, 422)])
def test_a_container_error_becomes_model_error(stand_in_url: str, text: Any, status: int) -> None:
    body = ask(text) if text == BOOM else b"[]"
    with FakeSageMakerRuntime(stand_in_url) as runtime, pytest.raises(ClientError) as caught:
        client(runtime).invoke_endpoint(EndpointName="ep", Body=body)
    assert caught.value.response["Error"]["Code"] == "ModelError"
    assert caught.value.response["OriginalStatusCode"] == status
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 424


@pytest.mark.parametrize("operation", ["invoke_endpoint", "invoke_endpoint_with_response_stream"])
def test_a_slow_container_overruns(stand_in_url: str, operation: str) -> None:
    with FakeSageMakerRuntime(stand_in_url, invocation_timeout_s=0.3, stream_timeout_s=0.3) as runtime:
        call = getattr(client(runtime), operation)
        with pytest.raises(ClientError, match="timed out"):
            call(EndpointName="ep", Body=ask(HANG))


def test_a_dropped_stream_raises_after_the_bytes_that_came(stand_in_url: str) -> None:
    with FakeSageMakerRuntime(stand_in_url, cut_bytes=3) as runtime:
        body = ask(DROP, stream=True)
        reply = client(runtime).invoke_endpoint_with_response_stream(EndpointName="ep", Body=body)
        parts = iter(reply["Body"])
        seen = b""
        with pytest.raises(EventStreamError, match="broken"):  # noqa: PT012 - the loop is the one statement
            while True:
                seen += next(parts)["PayloadPart"]["Bytes"]
    assert b"data: " in seen


def test_nobody_listens() -> None:
    with (
        FakeSageMakerRuntime("http://127.0.0.1:9") as runtime,
        pytest.raises(ClientError, match="ModelError"),
    ):
        client(runtime).invoke_endpoint(EndpointName="ep", Body=b"{}")


def test_async_input_inline_is_limited(runtime: FakeSageMakerRuntime) -> None:
    with pytest.raises(ClientError, match="128000"):
        client(runtime).invoke_endpoint_async(EndpointName="ep", Body=b"x" * 128_001)
