"""The AWS clients of the helper, created on first use, each replaceable.

Three ways to redirect them: pass clients as `overrides`, pass `endpoint_url` for all of them, or set botocore's
`AWS_ENDPOINT_URL[_SERVICE]` variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import boto3
from botocore.config import Config

# By default botocore times out a read after 60 s and retries it twice. SageMaker allows the container 60 s, to which
# transit adds, so a slow generation would run three times.
RUNTIME_CONFIG = Config(connect_timeout=10, read_timeout=80, retries={"total_max_attempts": 1})
CONTROL_CONFIG = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 5})


class Clients:
    """boto3 clients by service name. `session` provides region and credentials.

    The constructor raises `ValueError` if no region is known.
    """

    def __init__(
        self,
        session: Any = None,
        *,
        region: str = "",
        endpoint_url: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.session = session or boto3.Session(region_name=region or None)
        self.region = region or self.session.region_name or ""
        if not self.region:
            raise ValueError("no AWS region: set AWS_REGION or pass one")
        self._endpoint_url = endpoint_url
        self._made: dict[str, Any] = dict(overrides or {})

    def __getitem__(self, service: str) -> Any:
        """Return the client of a service, by boto3's name for it."""
        if service not in self._made:
            config = RUNTIME_CONFIG if service == "sagemaker-runtime" else CONTROL_CONFIG
            self._made[service] = self.session.client(
                service, region_name=self.region, endpoint_url=self._endpoint_url, config=config
            )
        return self._made[service]

    @property
    def sagemaker(self) -> Any:
        return self["sagemaker"]

    @property
    def runtime(self) -> Any:
        return self["sagemaker-runtime"]
