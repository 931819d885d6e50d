"""The helper's client, through an unmodified botocore and the fake platform, to the container that really runs."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import Any

import boto3
import pytest
from botocore.config import Config

from sagemaker_deploy.aws.clients import RUNTIME_CONFIG, Clients
from sagemaker_deploy.calling.bearer import MAX_LIFETIME_S, bearer_token, openai_base_url
from sagemaker_deploy.calling.endpoint_client import EndpointClient
from sagemaker_deploy.errors import ContainerError, InvokeError, SpecError, StreamBroken, WaitExpired
from tests.deploy.conftest import REGION, FastClock
from tests.deploy.stand_in import DROP, EARLY, HANG, INSIDE
from tests.fakes.sagemaker_runtime import FakeSageMakerRuntime

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "héllo ☃"}], "max_tokens": 12, "temperature": 0}
COMPLETION: dict[str, Any] = {"prompt": "hello", "max_tokens": 12, "temperature": 0}
TGI: dict[str, Any] = {"inputs": "hello", "parameters": {"max_new_tokens": 12, "return_full_text": False}}
TEXT_OF = {
    "chat": (CHAT, lambda answer: answer["choices"][0]["message"]["content"]),
    "completion": (COMPLETION, lambda answer: answer["choices"][0]["text"]),
    "tgi": (TGI, lambda answer: answer[0]["generated_text"]),
}


@pytest.fixture
def endpoint(served: Clients, clock: FastClock) -> EndpointClient:
    return EndpointClient("llm", served, clock=clock)


@pytest.fixture
def bucket(served: Clients) -> str:
    """Where the fake platform puts asynchronous answers."""
    for name in ("fake-runtime", "inputs"):
        served["s3"].create_bucket(Bucket=name)
    return "s3://inputs/calls"


def against(url: str, boto_session: Any) -> EndpointClient:
    runtime = boto_session.client("sagemaker-runtime", region_name=REGION, endpoint_url=url, config=RUNTIME_CONFIG)
    return EndpointClient("llm", Clients(boto_session, overrides={"sagemaker-runtime": runtime}))


def direct(container_url: str, body: dict[str, Any]) -> Any:
    """The container's own answer, without a platform between."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{container_url}/invocations", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.mark.parametrize("dialect", TEXT_OF)
def test_each_dialect_arrives_as_the_container_said_it(
    dialect: str, endpoint: EndpointClient, container_url: str
) -> None:
    body, text_of = TEXT_OF[dialect]
    said = text_of(direct(container_url, body))
    assert said
    assert text_of(endpoint.predict(body)) == said


@pytest.mark.parametrize("dialect", TEXT_OF)
def test_a_stream_cut_anywhere_is_the_same_text(dialect: str, endpoint: EndpointClient) -> None:
    body, text_of = TEXT_OF[dialect]
    pieces = list(endpoint.stream_text(body))
    assert len(pieces) > 1
    # A character that the last token leaves unfinished is no piece, but shows in TGI's whole text.
    assert "".join(pieces).rstrip("\ufffd") == text_of(endpoint.predict(body)).rstrip("\ufffd")


@pytest.mark.parametrize("streamed", [False, True])
def test_the_containers_refusal_is_the_callers(streamed: bool, endpoint: EndpointClient) -> None:
    wrong = CHAT | {"temperature": "warm"}
    with pytest.raises(ContainerError, match="temperature") as caught:
        list(endpoint.stream(wrong)) if streamed else endpoint.predict(wrong)
    assert caught.value.status in (400, 422)


def test_a_stream_left_early_ends_the_generation(endpoint: EndpointClient) -> None:
    events = endpoint.stream(CHAT | {"max_tokens": 400, "ignore_eos": True})
    next(events)
    events.close()
    assert endpoint.predict(CHAT)["choices"]


def test_a_broken_stream_is_not_an_answer(stand_in_url: str, boto_session: Any) -> None:
    with FakeSageMakerRuntime(stand_in_url, cut_bytes=3) as runtime:
        events = against(runtime.url, boto_session).stream({"messages": [{"role": "user", "content": DROP}]})
        with pytest.raises(StreamBroken, match="broken"):
            list(events)


@pytest.mark.parametrize(
    "body",
    [{"messages": [{"role": "user", "content": EARLY}]}, {"prompt": EARLY}, {"prompt": INSIDE}, {"inputs": INSIDE}],
)
def test_a_stream_that_only_ends_too_early_is_broken_too(body: Any, stand_in_url: str, boto_session: Any) -> None:
    """The platform reports nothing here; TGI's own events have no last word, so only a torn one shows there."""
    with FakeSageMakerRuntime(stand_in_url, cut_bytes=3) as runtime:
        events = against(runtime.url, boto_session).stream(body)
        with pytest.raises(StreamBroken, match="ended before the answer did"):
            list(events)


def test_a_slow_container_is_asked_once_and_the_reason_given(stand_in_url: str, boto_session: Any) -> None:
    with FakeSageMakerRuntime(stand_in_url, invocation_timeout_s=0.3) as runtime:
        with pytest.raises(ContainerError, match="timed out while waiting"):
            against(runtime.url, boto_session).predict({"messages": [{"role": "user", "content": HANG}]})
        assert len(runtime.forwarded) == 1, "a generation must not run three times because it was slow"


def test_an_answer_that_does_not_come_is_not_asked_for_again(stand_in_url: str, boto_session: Any) -> None:
    """botocore's own default sends a call whose read timed out three times."""
    config = RUNTIME_CONFIG.merge(Config(read_timeout=2))
    with FakeSageMakerRuntime(stand_in_url) as runtime:
        client = boto_session.client("sagemaker-runtime", endpoint_url=runtime.url, config=config)
        endpoint = EndpointClient("llm", Clients(boto_session, overrides={"sagemaker-runtime": client}))
        with pytest.raises(InvokeError, match="could not be reached"):
            endpoint.predict({"messages": [{"role": "user", "content": HANG}]})
        assert len(runtime.forwarded) == 1


def test_nobody_there(boto_session: Any) -> None:
    with pytest.raises(InvokeError, match="could not be reached"):
        against("http://127.0.0.1:9", boto_session).predict(CHAT)


def test_an_asynchronous_answer_is_found_in_s3(endpoint: EndpointClient, bucket: str, container_url: str) -> None:
    endpoint_call = endpoint.submit(CHAT)
    real = _waited(endpoint_call)
    assert real["choices"][0]["message"] == direct(container_url, CHAT)["choices"][0]["message"]
    assert endpoint_call.done()


def test_a_body_too_large_to_send_inline_goes_through_s3(
    endpoint: EndpointClient, bucket: str, served: Clients
) -> None:
    large = CHAT | {"user": "x" * 130_000}
    with pytest.raises(InvokeError, match="accepts 128000 inline") as caught:
        endpoint.submit(large)
    assert "S3 prefix" in caught.value.remedy
    assert _waited(endpoint.submit(large, upload_to=bucket))["choices"]
    objects = served["s3"].list_objects_v2(Bucket="inputs", Prefix="calls/")["Contents"]
    assert len(objects) == 1


def test_an_asynchronous_refusal_is_raised(endpoint: EndpointClient, bucket: str) -> None:
    with pytest.raises(ContainerError, match="temperature"):
        _waited(endpoint.submit(CHAT | {"temperature": "warm"}))


def test_patience_for_an_asynchronous_answer_ends(endpoint: EndpointClient, served: Clients, clock: FastClock) -> None:
    from sagemaker_deploy.calling.endpoint_client import AsyncCall

    served["s3"].create_bucket(Bucket="empty")
    with pytest.raises(WaitExpired, match="no answer at s3://empty/a after 10 s"):
        AsyncCall("s3://empty/a", "s3://empty/b", served, clock).result(10)
    assert clock.now_s() == 10


def _waited(call: Any) -> Any:
    """The job runs in real time, so it is waited for by a real clock."""
    from sagemaker_deploy.progress import Clock

    return type(call)(call.output, call.failure, call.clients, Clock()).result(60)


@pytest.mark.needs("openai")
def test_the_openai_client_comes_in_by_the_bearer_door(runtime: FakeSageMakerRuntime, boto_session: Any) -> None:
    import openai

    there = urllib.parse.urlsplit(openai_base_url(REGION, "llm"))
    base_url = runtime.url + there.path
    client = openai.OpenAI(base_url=base_url, api_key=bearer_token(boto_session, REGION), max_retries=0)
    whole = client.chat.completions.create(model="", **CHAT)
    stream = client.chat.completions.create(model="", stream=True, **CHAT)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert all("authorization" not in headers for headers in runtime.forwarded)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=base_url, api_key="sk-x", max_retries=0).chat.completions.create(model="", **CHAT)


def test_a_token_is_a_signed_address_with_an_end(boto_session: Any) -> None:
    import base64

    token = bearer_token(boto_session, REGION, 900)
    signed = base64.b64decode(token.removeprefix("sagemaker-api-key-")).decode()
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(f"https://{signed}").query)
    assert query["Action"] == ["CallWithBearerToken"]
    assert query["X-Amz-Expires"] == ["900"]
    assert f"/{REGION}/sagemaker/aws4_request" in query["X-Amz-Credential"][0]
    with pytest.raises(SpecError, match=f"1 to {MAX_LIFETIME_S} s"):
        bearer_token(boto_session, REGION, MAX_LIFETIME_S + 1)


def test_a_token_needs_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SpecError, match="no AWS credentials"):
        bearer_token(boto3.Session(), REGION)


def test_the_openai_address_names_region_endpoint_and_component() -> None:
    assert openai_base_url("eu-west-1", "llm").startswith("https://runtime.sagemaker.eu-west-1.amazonaws.com/")
    assert openai_base_url("eu-west-1", "llm", "llm-model").endswith(
        "/endpoints/llm/inference-components/llm-model/openai/v1"
    )
    assert ".amazonaws.com.cn/" in openai_base_url("cn-north-1", "llm")


def test_a_session_stays_with_one_container(served: Clients) -> None:
    """Through the API's own fields, as botocore has them."""
    runtime, body = served.runtime, json.dumps(TGI)
    opened = runtime.invoke_endpoint(EndpointName="llm", Body=body, SessionId="NEW_SESSION")
    name = opened["NewSessionId"].partition(";")[0]
    used = runtime.invoke_endpoint(EndpointName="llm", Body=body, SessionId=name, ContentType="application/json")
    assert json.load(used["Body"])[0]["generated_text"]
    closing = json.dumps({"requestType": "CLOSE"})
    closed = runtime.invoke_endpoint(EndpointName="llm", Body=closing, SessionId=name)
    assert closed["ClosedSessionId"] == name
