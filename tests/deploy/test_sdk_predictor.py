"""The SDK's own predictors, version 2, against the container that really runs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.deployment import DeployOptions, deploy
from sagemaker_deploy.sdk_v2 import sdk_major, sdk_session
from tests.deploy.conftest import NEEDS_SDK_2, make_spec

pytestmark = NEEDS_SDK_2
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "héllo ☃"}], "max_tokens": 12, "temperature": 0}


@pytest.fixture
def predictor(served: Clients) -> Any:
    """What `deploy` gives back beside this SDK."""
    assert sdk_major() == 2
    predictor = deploy(make_spec(), served, DeployOptions(preflight=False)).predictor
    assert type(predictor).__name__ == "HuggingFacePredictor"
    return predictor


def test_predict(predictor: Any) -> None:
    assert predictor.predict(CHAT)["choices"][0]["message"]["content"]
    answer = predictor.predict({"inputs": "hello", "parameters": {"max_new_tokens": 4}})
    assert answer[0]["generated_text"]


@pytest.mark.parametrize("iterator", ["LineIterator", "ByteIterator"])
def test_predict_stream(predictor: Any, iterator: str) -> None:
    """Both of the SDK's iterators end; the line iterator would spin for ever without a last line end."""
    from sagemaker import iterators

    parts = predictor.predict_stream(CHAT | {"stream": True}, iterator=getattr(iterators, iterator))
    joined = (b"\n" if iterator == "LineIterator" else b"").join(parts).decode()
    events = [line.removeprefix("data: ") for line in joined.split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    text = "".join(delta.get("content") or "" for delta in deltas)
    assert text == predictor.predict(CHAT)["choices"][0]["message"]["content"]


def test_the_containers_refusal(predictor: Any) -> None:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError, match="temperature") as caught:
        predictor.predict(CHAT | {"temperature": "warm"})
    assert caught.value.response["OriginalStatusCode"] in (400, 422)


def waited(later: Any) -> Any:
    """Given a WaiterConfig, the SDK would start threads that outlive the test and call a server that is gone."""
    from sagemaker.exceptions import ObjectNotExistedError

    deadline = time.monotonic() + 60
    while True:
        try:
            return later.get_result()
        except ObjectNotExistedError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_asynchronous_predictor(served: Clients) -> None:
    """S3 calls an object that was stored without a type binary/octet-stream, which the container has to accept."""
    from sagemaker.huggingface import HuggingFacePredictor
    from sagemaker.predictor_async import AsyncPredictor

    for bucket in ("fake-runtime", "calls"):
        served["s3"].create_bucket(Bucket=bucket)
    served["s3"].put_object(Bucket="calls", Key="in.json", Body=json.dumps(CHAT), ContentType="")
    session = sdk_session(served)
    session.s3_client = served["s3"]
    asynchronous = AsyncPredictor(HuggingFacePredictor("llm", sagemaker_session=session), name="llm")
    later = asynchronous.predict_async(input_path="s3://calls/in.json")
    assert waited(later)["choices"][0]["message"]["content"]
