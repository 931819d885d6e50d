"""Adapters on SageMaker: inference components on top of the model's, which holds the instances."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.control_plane import explained
from sagemaker_deploy.aws.removal import is_ours
from sagemaker_deploy.aws.waiting import Description, Waiter, describe_component, is_adapter, is_missing
from sagemaker_deploy.errors import EndpointFailed, PreflightError, SpecError
from sagemaker_deploy.failures import explain
from sagemaker_deploy.progress import Clock, Progress, Silent
from sagemaker_deploy.request.adapter_archive import adapter_archive
from sagemaker_deploy.request.adapter_room import takes_adapters
from sagemaker_deploy.request.requests import Request, adapter_request, component_name
from sagemaker_deploy.request.service_model import violations

WAIT_S = 1800.0


@dataclass(frozen=True)
class AdapterOptions:
    """An adapter component `name` on the component `base`, by default the one that `deploy` makes.

    `source` is a directory of peft, a .tar.gz file or an s3:// URI of one; `upload_to` is the S3 prefix for the first
    two, which the endpoint's role must be able to read.
    """

    name: str
    source: str
    upload_to: str = ""
    base: str = ""


def create_adapter(
    endpoint: str,
    options: AdapterOptions,
    clients: Clients,
    progress: Progress | None = None,
    *,
    clock: Clock | None = None,
    wait_s: float = WAIT_S,
) -> Description:
    """Create the component and wait until it is in service; return its description. Safe to repeat.

    Raises `SpecError` or `PreflightError` before anything is sent, `EndpointFailed` if the container refuses the
    adapter, after removing the component.
    """
    progress = progress or Silent()
    base = options.base or component_name(endpoint)
    content, artifact = _artifact(options)
    request = adapter_request(endpoint, options.name, base, artifact)
    problems = violations("sagemaker", "CreateInferenceComponent", request)
    if problems:
        raise SpecError("SageMaker would refuse this: " + "; ".join(problems))
    found = _check_base(base, endpoint, clients)
    if refuses_adapters(found, clients):
        progress.warn(
            f"inference component {base} has GPUs and sets no memory aside for adapters, so it refuses them: deploy it "
            "with --enable-adapters, or with LORA_ADAPTERS in its environment"
        )
    existing = describe_component(clients, options.name)
    if existing is None:
        if content is not None:
            _upload(content, artifact, clients["s3"], progress)
        _create(request, clients, progress)
    else:
        _check_same(existing, request)
        progress.step(f"adapter {options.name} already exists")
    description = Waiter(clients, progress, wait_s, clock).component(options.name, endpoint)
    if description is not None and description["InferenceComponentStatus"] == "InService":
        progress.step(f"adapter {options.name} is in service")
        return description
    raise _failed(options.name, description, clients, progress)


def list_adapters(endpoint: str, clients: Clients) -> list[dict[str, Any]]:
    """Name, base, status and archive of each adapter component of the endpoint."""
    return [
        {
            "name": each["InferenceComponentName"],
            "base": each["Specification"]["BaseInferenceComponentName"],
            "status": each["InferenceComponentStatus"],
            "artifact": each["Specification"].get("Container", {}).get("ArtifactUrl", ""),
        }
        for each in _adapters(endpoint, clients)
    ]


def delete_adapter(
    endpoint: str, name: str, clients: Clients, progress: Progress | None = None, *, clock: Clock | None = None
) -> bool:
    """Delete the component and wait; False if there is none. The archive stays in S3.

    Raises `PreflightError` for a component that is no adapter, of another endpoint, or not ours.
    """
    progress = progress or Silent()
    description = describe_component(clients, name)
    if description is None:
        return False
    if not is_adapter(description) or description["EndpointName"] != endpoint:
        raise PreflightError(f"{name} is no adapter of endpoint {endpoint}", remedy="see `adapter list`")
    if not is_ours(clients, description["InferenceComponentArn"], endpoint):
        raise PreflightError(f"{name} was not made by this helper and stays")
    clients.sagemaker.delete_inference_component(InferenceComponentName=name)
    Waiter(clients, progress, WAIT_S, clock).component(name, endpoint)
    progress.step(f"adapter {name} deleted")
    return True


def _adapters(endpoint: str, clients: Clients) -> Iterator[Description]:
    pages = clients.sagemaker.get_paginator("list_inference_components").paginate(EndpointNameEquals=endpoint)
    for page in pages:
        for item in page["InferenceComponents"]:
            description = describe_component(clients, item["InferenceComponentName"])
            if description is not None and is_adapter(description):
                yield description


def _artifact(options: AdapterOptions) -> tuple[bytes | None, str]:
    """The archive to upload, None if it is in S3, and its URI, which ends in a hash of it. Raises SpecError."""
    if options.source.startswith("s3://"):
        if not options.source.endswith(".tar.gz"):
            raise SpecError(f"{options.source!r} must be a .tar.gz file with the adapter's files at its root")
        return None, options.source
    content = adapter_archive(Path(options.source))
    if not options.upload_to.startswith("s3://"):
        raise SpecError("an adapter from here needs an S3 prefix to upload it to", remedy="give --upload-to")
    digest = hashlib.sha256(content).hexdigest()[:12]
    return content, f"{options.upload_to.rstrip('/')}/{options.name}-{digest}.tar.gz"


def _upload(content: bytes, uri: str, s3: Any, progress: Progress) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as exc:
        if exc.response["Error"]["Code"] not in ("404", "NoSuchKey", "403"):
            raise
        s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType="application/gzip")
        progress.step(f"{len(content) / 1e6:.1f} MB sent to {uri}")
    else:
        progress.step(f"{uri} was already there")


def refuses_adapters(base: Description, clients: Clients) -> bool:
    """Whether a base component has GPUs and an environment by which its container takes no adapter.

    False where that cannot be read.
    """
    specification = base.get("Specification", {})
    if not specification.get("ComputeResourceRequirements", {}).get("NumberOfAcceleratorDevicesRequired"):
        return False
    environment = specification.get("Container", {}).get("Environment")
    if environment is None and specification.get("ModelName"):
        try:
            model = clients.sagemaker.describe_model(ModelName=specification["ModelName"])
        except ClientError:
            return False
        environment = model.get("PrimaryContainer", {}).get("Environment", {})
    return environment is not None and not takes_adapters(environment)


def _check_base(base: str, endpoint: str, clients: Clients) -> Description:
    """The description of the base component. Raises PreflightError."""
    description = describe_component(clients, base)
    if description is None or description["EndpointName"] != endpoint:
        raise PreflightError(
            f"endpoint {endpoint} has no inference component {base}",
            remedy="deploy the model as one, with --component-memory",
        )
    status = description["InferenceComponentStatus"]
    if status != "InService":
        raise PreflightError(f"inference component {base} is {status}", remedy="wait until it is in service")
    return description


def _create(request: Request, clients: Clients, progress: Progress) -> None:
    try:
        clients.sagemaker.create_inference_component(**request)
    except ClientError as exc:
        raise explained(exc) from exc
    progress.step(f"adapter {request['InferenceComponentName']} created")


def _check_same(existing: Description, request: Request) -> None:
    """Raise PreflightError if the component of this name is on another endpoint or base, or has another archive."""
    found, wanted = existing.get("Specification", {}), request["Specification"]
    base, artifact = found.get("BaseInferenceComponentName"), found.get("Container", {}).get("ArtifactUrl")
    wanted_parts = (request["EndpointName"], wanted["BaseInferenceComponentName"], wanted["Container"]["ArtifactUrl"])
    if (existing["EndpointName"], base, artifact) != wanted_parts:
        raise PreflightError(
            f"inference component {request['InferenceComponentName']} exists with {artifact or 'a model'} on "
            f"{base or 'no base'} of endpoint {existing['EndpointName']}",
            remedy="choose another name, or delete it first",
        )


def _failed(name: str, description: Description | None, clients: Clients, progress: Progress) -> EndpointFailed:
    reason = str((description or {}).get("FailureReason") or "it disappeared during the wait").rstrip(".")
    if description is not None:
        try:
            clients.sagemaker.delete_inference_component(InferenceComponentName=name)
            progress.step(f"adapter {name} deleted again")
        except ClientError as exc:
            if not is_missing(exc):
                raise
    known = explain(reason)
    remedy = known.remedy if known else "the container's log says why it refused the adapter; see `logs`"
    return EndpointFailed(f"adapter {name} failed: {reason}", remedy=remedy, log_lines=[])
