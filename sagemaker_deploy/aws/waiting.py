"""Waits for an endpoint or an inference component, with a time limit and progress reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.logs import last_lines
from sagemaker_deploy.errors import DeployError, WaitExpired
from sagemaker_deploy.progress import Clock, Progress

POLL_S = 15.0
_MOVING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")

Description = dict[str, Any]


def describe_endpoint(clients: Clients, name: str) -> Description | None:
    """Return the endpoint's description, or None if it does not exist."""
    return _describe(lambda: clients.sagemaker.describe_endpoint(EndpointName=name))


def describe_component(clients: Clients, name: str) -> Description | None:
    """Return the inference component's description, or None if it does not exist."""
    return _describe(lambda: clients.sagemaker.describe_inference_component(InferenceComponentName=name))


def is_adapter(component: Description | None) -> bool:
    """True if the inference component is based on another one."""
    return bool((component or {}).get("Specification", {}).get("BaseInferenceComponentName"))


def hosts_components(clients: Clients, endpoint: Description | None) -> bool:
    """True if the endpoint can host inference components: one of its variants has no model of its own."""
    if endpoint is None or "EndpointConfigName" not in endpoint:
        return False
    config = clients.sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    return any("ModelName" not in variant for variant in config["ProductionVariants"])


def is_missing(error: ClientError) -> bool:
    """True if the resource does not exist; SageMaker has no single error code for that."""
    detail = error.response["Error"]
    return detail["Code"] in ("ResourceNotFound", "ResourceNotFoundException", "ObjectNotFoundException") or (
        detail["Code"] == "ValidationException"
        and ("Could not find" in detail["Message"] or "does not exist" in detail["Message"])
    )


class Waiter:
    """Polls every `POLL_S` seconds, at most `limit_s`; reports status, age and the last log line to `progress`."""

    def __init__(self, clients: Clients, progress: Progress, limit_s: float, clock: Clock | None = None) -> None:
        self._clients = clients
        self._progress = progress
        self._limit_s = limit_s
        self._clock = clock or Clock()

    def endpoint(self, name: str) -> Description | None:
        """Wait until the endpoint is stable; return its description, or None if it does not exist.

        Raises `WaitExpired` after the limit; the endpoint is left as it is.
        """
        return self._until_stable(
            f"endpoint {name}", name, "EndpointStatus", lambda: describe_endpoint(self._clients, name)
        )

    def component(self, name: str, endpoint_name: str) -> Description | None:
        """Wait as `endpoint` does, for an inference component."""
        return self._until_stable(
            f"inference component {name}",
            endpoint_name,
            "InferenceComponentStatus",
            lambda: describe_component(self._clients, name),
        )

    def _until_stable(
        self, what: str, endpoint_name: str, key: str, describe: Callable[[], Description | None]
    ) -> Description | None:
        start = self._clock.now_s()
        while True:
            description = describe()
            if description is None or description[key] not in _MOVING:
                return description
            age = self._clock.now_s() - start
            self._report(f"{what}: {description[key]}, {age:.0f} s", endpoint_name)
            if age >= self._limit_s:
                raise WaitExpired(
                    f"{what} is still {description[key]} after {age:.0f} s",
                    remedy="check again with `status` and `logs`; nothing was removed",
                )
            self._clock.sleep(POLL_S)

    def _report(self, text: str, endpoint_name: str) -> None:
        """Report the status. The log line is optional: lack of permission to read it must not end the wait."""
        line = ""
        with contextlib.suppress(DeployError, ClientError):
            lines = last_lines(self._clients["logs"], endpoint_name, 1)
            line = f" | {lines[-1].text[:100]}" if lines else ""
        self._progress.status(text + line)


def _describe(call: Callable[[], Any]) -> Description | None:
    try:
        return dict(call())
    except ClientError as exc:
        if is_missing(exc):
            return None
        raise
