"""Fixtures of the offline flows: the real container, the fake runtime before it, moto's server as control plane."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.progress import Clock
from sagemaker_deploy.request.spec import DeploySpec
from tests.deploy.stand_in import StandInContainer
from tests.deploy.transcript import Transcript
from tests.fakes.sagemaker_runtime import FakeSageMakerRuntime
from tests.support.server import Server

NEEDS_SDK_2 = [pytest.mark.sdk2, pytest.mark.needs("sdk2")]
ACCOUNT = "123456789012"
REGION = "us-east-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/endpoint"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/tgi-heir@sha256:{'a' * 64}"


def needs_sdk_2(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test only beside version 2 of the SDK."""
    for mark in NEEDS_SDK_2:
        test = mark(test)
    return test


class FastClock(Clock):
    """Time passes only by sleeping, and sleeping takes none; `on_sleep` is what happens in the meantime."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.on_sleep: Callable[[float], None] = lambda now_s: None

    def now_s(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        self.on_sleep(self.time_s)


def make_spec(**changes: Any) -> DeploySpec:
    """Return a specification that is fine, with changes."""
    base: dict[str, Any] = {
        "name": "llm",
        "image": IMAGE,
        "role": ROLE,
        "instance_type": "ml.g6.2xlarge",
        "model_id": "org/model",
    }
    return DeploySpec(**{**base, **changes})


@pytest.fixture(scope="session")
def stand_in_url() -> Iterator[str]:
    """A container that misbehaves when told to, which the real one refuses to do."""
    container = StandInContainer()
    yield container.start()
    container.stop()


@pytest.fixture(scope="session")
def container_url(request: pytest.FixtureRequest) -> str:
    """The container, really running: the tests' own, or one named by DEPLOY_TEST_CONTAINER_URL."""
    given = os.environ.get("DEPLOY_TEST_CONTAINER_URL", "")
    server: Server | None = None if given else request.getfixturevalue("tiny_server")
    return server.url if server else given


@pytest.fixture
def runtime(container_url: str, moto_url: str) -> Iterator[FakeSageMakerRuntime]:
    """The platform before the container, cutting streams at random bytes, S3 at moto."""
    with FakeSageMakerRuntime(container_url, cut_bytes=20261123, s3_url=moto_url) as fake:
        yield fake


@pytest.fixture(scope="session")
def _moto_server() -> Iterator[str]:
    """moto 5.2.5 knows no GPU newer than g4dn; botocore's enumeration, checked elsewhere, does."""
    from moto.sagemaker.models import FakeEndpointConfig
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    patch = pytest.MonkeyPatch()
    patch.setattr(FakeEndpointConfig, "validate_instance_type", lambda self, instance_type: None)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    patch.undo()


@pytest.fixture
def moto_url(_moto_server: str) -> str:
    """An empty account."""
    request = urllib.request.Request(f"{_moto_server}/moto-api/reset", method="POST")
    urllib.request.urlopen(request).close()
    return _moto_server


@pytest.fixture(scope="session")
def boto_session() -> Any:
    """One for all tests: it holds the service models, which take long to read."""
    return boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)


@pytest.fixture
def clients(moto_url: str, boto_session: Any) -> Clients:
    """The helper's clients on the empty account; calls to endpoints have nowhere to go."""
    return Clients(boto_session, endpoint_url=moto_url)


@pytest.fixture
def served(moto_url: str, boto_session: Any, runtime: FakeSageMakerRuntime) -> Clients:
    """The same with the fake runtime and the container behind `sagemaker-runtime`."""
    there = Clients(boto_session, endpoint_url=runtime.url).runtime
    return Clients(boto_session, endpoint_url=moto_url, overrides={"sagemaker-runtime": there})


@pytest.fixture
def everything_offline(moto_url: str, runtime: FakeSageMakerRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that makes its own clients, as an example in the documents does, meets the same two."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", runtime.url)


@pytest.fixture
def backend(moto_url: str) -> Any:
    """moto's own state, to make things happen that its API never does."""
    from moto.sagemaker.models import sagemaker_backends

    return sagemaker_backends[ACCOUNT][REGION]


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


@pytest.fixture
def transcript() -> Transcript:
    return Transcript()


@pytest.fixture(autouse=True)
def _dummy_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can reach a real account or the Hub: the credentials are fake and no profile is read."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("SAGEMAKER_SUPPRESS_V2_WARNING", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
