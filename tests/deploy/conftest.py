"""Fixtures of the offline flows: a container, the fake runtime before it, and moto's server as the control
plane.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.deploy.stand_in import StandInContainer
from tests.fakes.sagemaker_runtime import FakeSageMakerRuntime


@pytest.fixture(scope="session")
def stand_in_url() -> Iterator[str]:
    """A container that can also be told to misbehave."""
    container = StandInContainer()
    yield container.start()
    container.stop()


@pytest.fixture(scope="session")
def container_url(stand_in_url: str) -> str:
    """The container under test: `DEPLOY_TEST_CONTAINER_URL` names a really running one."""
    return os.environ.get("DEPLOY_TEST_CONTAINER_URL", stand_in_url)


@pytest.fixture
def runtime(container_url: str) -> Iterator[FakeSageMakerRuntime]:
    """The platform before the container, cutting streams at random bytes."""
    with FakeSageMakerRuntime(container_url, cut_bytes=20261123) as fake:
        yield fake


@pytest.fixture(autouse=True)
def _dummy_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can reach a real account: the credentials are fake and no profile is read."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("SAGEMAKER_SUPPRESS_V2_WARNING", "1")
