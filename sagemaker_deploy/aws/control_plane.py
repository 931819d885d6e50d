"""The calls that create and update, idempotent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.waiting import is_missing
from sagemaker_deploy.errors import DeployError, PreflightError
from sagemaker_deploy.failures import explain
from sagemaker_deploy.progress import Clock, Progress
from sagemaker_deploy.request.requests import Request, Requests

ROLE_ATTEMPTS = 8
ROLE_PAUSE_S = 8.0


class ControlPlane:
    """Sends the requests of one endpoint. Every creating method returns once the resource exists.

    `created` holds the names of new resources, which may be deleted after a failure.
    """

    def __init__(self, clients: Clients, progress: Progress, clock: Clock | None = None) -> None:
        self._sagemaker = clients.sagemaker
        self._progress = progress
        self._clock = clock or Clock()
        self.created: set[str] = set()

    def create(self, requests: Requests) -> None:
        """Create model, configuration and endpoint; the caller waits for the endpoint."""
        self.create_model(requests.model)
        self.create_endpoint_config(requests.endpoint_config)
        self._once(self._sagemaker.create_endpoint, requests.endpoint, "endpoint", "EndpointName")

    def create_model(self, request: Request) -> None:
        """Create the model. A new role takes time to propagate, so its refusal is retried for about a minute."""
        for attempt in range(ROLE_ATTEMPTS):
            try:
                self._once(self._sagemaker.create_model, request, "model", "ModelName")
            except ClientError as exc:
                if "assume role" not in str(exc) or attempt == ROLE_ATTEMPTS - 1:
                    raise explained(exc) from exc
                self._progress.status("waiting for IAM to propagate the new role")
                self._clock.sleep(ROLE_PAUSE_S)
            else:
                return

    def create_endpoint_config(self, request: Request) -> None:
        self._once(self._sagemaker.create_endpoint_config, request, "endpoint configuration", "EndpointConfigName")

    def create_component(self, request: Request) -> None:
        self._once(
            self._sagemaker.create_inference_component,
            request,
            "inference component",
            "InferenceComponentName",
        )

    def update(self, requests: Requests, deployment: Request) -> None:
        """Start moving the endpoint to the configuration of `requests`; the caller waits and checks the result."""
        self.create_model(requests.model)
        self.create_endpoint_config(requests.endpoint_config)
        self._sagemaker.update_endpoint(
            EndpointName=requests.endpoint_name,
            EndpointConfigName=requests.config_name,
            DeploymentConfig=deployment,
        )
        self._progress.step(f"update of {requests.endpoint_name} to {requests.config_name} started")

    def discard(self, requests: Requests, names: Iterable[str] | None = None) -> None:
        """Delete configuration and model of `requests` that are in `names`, by default those created here."""
        ours = self.created if names is None else set(names)
        for delete, key, name in (
            (self._sagemaker.delete_endpoint_config, "EndpointConfigName", requests.config_name),
            (self._sagemaker.delete_model, "ModelName", requests.model_name),
        ):
            if name not in ours:
                continue
            try:
                delete(**{key: name})
            except ClientError as exc:
                if not is_missing(exc):
                    raise
            else:
                self._progress.step(f"{name} deleted again")

    def _once(self, create: Callable[..., Any], request: Request, what: str, key: str) -> None:
        """Create unless it exists. Names end in a hash of the content, so equal names mean equal resources."""
        try:
            create(**request)
        except ClientError as exc:
            if not _already_exists(exc):
                if "assume role" in str(exc):
                    raise
                raise explained(exc) from exc
            self._progress.step(f"{what} {request[key]} already exists")
        else:
            self.created.add(request[key])
            self._progress.step(f"{what} {request[key]} created")


def _already_exists(error: ClientError) -> bool:
    return "already exist" in error.response["Error"]["Message"]


def explained(error: ClientError) -> DeployError:
    """Return `error` as a `PreflightError`, with cause and remedy if they are known."""
    failure = explain(str(error))
    if failure is None:
        return PreflightError(str(error))
    return PreflightError(f"{failure.cause} ({error})", remedy=failure.remedy)
