"""From a specification to an endpoint in service; after a failure, to a clean account and a message that says why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import ClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.control_plane import ControlPlane, explained
from sagemaker_deploy.aws.logs import last_lines
from sagemaker_deploy.aws.removal import delete, delete_config, is_ours
from sagemaker_deploy.aws.rollback import UpdateOptions, deployment_config, set_rollback_alarm
from sagemaker_deploy.aws.waiting import Description, Waiter, describe_component, describe_endpoint
from sagemaker_deploy.calling.endpoint_client import EndpointClient
from sagemaker_deploy.errors import DeployError, EndpointFailed, PreflightError, RolledBack, SpecError
from sagemaker_deploy.failures import explain
from sagemaker_deploy.preflight import resolve
from sagemaker_deploy.progress import Clock, Progress, Silent
from sagemaker_deploy.request.environment import environment_warnings
from sagemaker_deploy.request.requests import Requests, build_requests
from sagemaker_deploy.request.spec import DeploySpec
from sagemaker_deploy.sdk_v2 import create_through_sdk, sdk_can_express, sdk_major, sdk_predictor

DEFAULT_WAIT_S = 2 * 3600.0
LOG_LINES = 40

Way = Literal["auto", "sdk", "boto3"]


@dataclass(frozen=True, kw_only=True)
class DeployOptions:
    """How to deploy.

    `way` "auto" uses the SDK's HuggingFaceModel if version 2 is installed, else boto3. `wait_s` limits the wait. An
    endpoint that serves another configuration is changed only if `update` is given. After a failure everything that was
    created is removed, unless `keep`.
    """

    way: Way = "auto"
    wait: bool = True
    wait_s: float = DEFAULT_WAIT_S
    keep: bool = False
    preflight: bool = True
    update: UpdateOptions | None = None


@dataclass(frozen=True)
class Deployment:
    """An endpoint and the requests that created it."""

    spec: DeploySpec
    requests: Requests
    clients: Clients

    @property
    def client(self) -> EndpointClient:
        """The helper's own client: calls, streams, asynchronous calls."""
        component = str(self.requests.component["InferenceComponentName"]) if self.requests.component else ""
        return EndpointClient(self.spec.name, self.clients, component=component)

    @property
    def predictor(self) -> Any:
        """A `HuggingFacePredictor` if SDK version 2 is installed, else `client`; both have `predict`."""
        if sdk_major() == 2 and self.requests.component is None and self.spec.asynchronous is None:
            return sdk_predictor(self.spec, self.clients)
        return self.client


def deploy(
    spec: DeploySpec,
    clients: Clients,
    options: DeployOptions | None = None,
    *,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Deployment:
    """Bring the endpoint of `spec` into service and return it. Idempotent: an equal `spec` changes nothing.

    Raises `SpecError` or `PreflightError` before anything is created, `EndpointFailed` with the container's last log
    lines if the endpoint fails, `RolledBack` if an update fails, `WaitExpired` after `options.wait_s`.
    """
    options, progress = options or DeployOptions(), progress or Silent()
    if options.preflight:
        spec = resolve(spec, clients, progress)
    return _Run(spec, clients, options, progress, clock).deploy()


class _Run:
    """One call of `deploy`."""

    def __init__(
        self,
        spec: DeploySpec,
        clients: Clients,
        options: DeployOptions,
        progress: Progress,
        clock: Clock | None,
    ) -> None:
        self._spec = spec
        self._clients = clients
        self._options = options
        self._progress = progress
        self._clock = clock
        self._waiter = Waiter(clients, progress, options.wait_s, clock)
        self._control = ControlPlane(clients, progress, clock)
        self._requests = build_requests(spec, clients.region)

    def deploy(self) -> Deployment:
        self._check()
        existing = self._settle()
        if existing is None:
            self._create()
        elif existing["EndpointConfigName"] == self._requests.config_name:
            self._progress.step(f"endpoint {self._spec.name} already serves this specification")
        else:
            self._update(existing)
        self._create_component()
        return Deployment(self._spec, self._requests, self._clients)

    def _check(self) -> None:
        problems = self._requests.violations()
        if problems:
            raise SpecError("SageMaker would refuse this: " + "; ".join(problems))
        environment, asynchronous = self._requests.model["PrimaryContainer"]["Environment"], self._spec.asynchronous
        for warning in environment_warnings(environment, asynchronous=asynchronous is not None):
            self._progress.warn(warning)

    def _settle(self) -> Description | None:
        """Return the existing endpoint, or None. Waits while it is changing; removes a failed one of ours."""
        name = self._spec.name
        existing = describe_endpoint(self._clients, name)
        if existing is None:
            return None
        if not is_ours(self._clients, existing["EndpointArn"], name):
            raise PreflightError(
                f"endpoint {name} exists and was not made by this helper",
                remedy="choose another name, or delete that endpoint first",
            )
        if existing["EndpointStatus"] in (
            "Creating",
            "Updating",
            "RollingBack",
            "Deleting",
            "SystemUpdating",
        ):
            existing = self._waiter.endpoint(name)
        if existing is not None and existing["EndpointStatus"] == "Failed":
            self._progress.warn(f"endpoint {name} had failed and is created again: {_reason(existing)}")
            delete(name, self._clients, self._progress, clock=self._clock)
            return None
        return existing

    def _create(self) -> None:
        if self._way() == "sdk":
            self._create_through_sdk()
        else:
            with self._discarding():
                self._control.create(self._requests)
        # SageMaker accepts a component only once its endpoint is in service.
        if self._options.wait or self._spec.component:
            self._judge(self._waiter.endpoint(self._spec.name), "EndpointStatus")

    def _create_through_sdk(self) -> None:
        requests = self._requests
        # The SDK refuses an existing configuration; an interrupted run leaves one behind.
        delete_config(requests.config_name, self._clients, self._spec.name)
        try:
            with self._discarding(requests.config_name, requests.model_name):
                create_through_sdk(self._spec, requests, self._clients)
        except ClientError as exc:
            raise explained(exc) from exc
        self._progress.step(f"endpoint {self._spec.name} created through HuggingFaceModel")

    @contextlib.contextmanager
    def _discarding(self, *names: str) -> Iterator[None]:
        """If a creating call fails, delete `names`, by default what was new, unless `keep`."""
        try:
            yield
        except (DeployError, ClientError):
            if not self._options.keep:
                self._control.discard(self._requests, names or None)
            raise

    def _way(self) -> Way:
        """Choose SDK or boto3. "auto" falls back to boto3 if the SDK cannot express the specification."""
        wanted = self._options.way
        able = sdk_major() == 2 and sdk_can_express(self._spec)
        if wanted == "sdk" and not able:
            raise PreflightError(
                "HuggingFaceModel needs SageMaker SDK version 2 and an endpoint without inference components",
                remedy="pip install 'sagemaker>=2.257,<3', or deploy with boto3",
            )
        return "boto3" if wanted == "boto3" or not able else "sdk"

    def _update(self, existing: Description) -> None:
        if self._options.update is None:
            raise PreflightError(
                f"endpoint {self._spec.name} serves another configuration ({existing['EndpointConfigName']})",
                remedy="ask for an update (--update), or choose another name",
            )
        if self._spec.component:
            raise PreflightError(
                "endpoints with inference components are not updated in place",
                remedy="delete and deploy again, or deploy under another name and switch",
            )
        set_rollback_alarm(self._spec.name, self._clients)
        with self._discarding():
            self._control.update(self._requests, deployment_config(self._options.update, self._spec.name))
        if self._options.wait:
            self._judge_update(self._waiter.endpoint(self._spec.name))

    def _judge_update(self, description: Description | None) -> None:
        serving = description and description["EndpointConfigName"]
        if description and description["EndpointStatus"] == "InService" and serving == self._requests.config_name:
            self._progress.step(f"endpoint {self._spec.name} is in service with the new configuration")
            return
        failure = self._failure(description, RolledBack)
        if not self._options.keep and serving != self._requests.config_name:
            # The endpoint may still serve this model under its old configuration, so delete only what is new.
            self._control.discard(self._requests)
        raise failure

    def _create_component(self) -> None:
        request = self._requests.component
        if request is None:
            return
        name = str(request["InferenceComponentName"])
        if describe_component(self._clients, name) is None:
            if self._requests.model_name not in self._control.created:
                self._control.create_model(self._requests.model)
            self._control.create_component(request)
        if self._options.wait:
            self._judge(self._waiter.component(name, self._spec.name), "InferenceComponentStatus")

    def _judge(self, description: Description | None, key: str) -> None:
        if description is not None and description[key] == "InService":
            self._progress.step(f"{self._spec.name} is in service")
            return
        failure = self._failure(description, EndpointFailed)
        if not self._options.keep:
            delete(self._spec.name, self._clients, self._progress, clock=self._clock)
        raise failure

    def _failure(self, description: Description | None, kind: type[EndpointFailed]) -> EndpointFailed:
        """Build the error before anything is removed: afterwards the log may not be found by the endpoint's name."""
        reason = _reason(description)
        lines: list[str] = []
        with contextlib.suppress(DeployError, ClientError):
            lines = [line.text for line in last_lines(self._clients["logs"], self._spec.name, LOG_LINES)]
        known = explain(reason, lines)
        cause = f" Known cause: {known.cause}." if known else ""
        remedy = known.remedy if known else "read the log lines; `local` runs the image here as SageMaker does"
        return kind(f"endpoint {self._spec.name} failed: {reason}.{cause}", remedy=remedy, log_lines=lines)


def _reason(description: Description | None) -> str:
    if description is None:
        return "it disappeared during the wait"
    status = description.get("EndpointStatus") or description.get("InferenceComponentStatus")
    return str(description.get("FailureReason") or f"no reason given, status {status}").rstrip(".")
