"""Checks image, quota and weights before anything is created, and completes the specification."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.image import inspect_image, region_warning
from sagemaker_deploy.aws.quota import endpoint_quota, quota_warning
from sagemaker_deploy.errors import DeployError, PreflightError, SpecError
from sagemaker_deploy.progress import Progress
from sagemaker_deploy.request.instances import has_gpu
from sagemaker_deploy.request.model_reference import MOUNT
from sagemaker_deploy.request.spec import DeploySpec
from sagemaker_deploy.sizing.fit import stored_form_problem
from sagemaker_deploy.sizing.hub import TOKEN_NAMES, Hub
from sagemaker_deploy.sizing.model_source import GgufInS3, HubUnreachable, read_model


def resolve(spec: DeploySpec, clients: Clients, progress: Progress) -> DeploySpec:
    """Return `spec` with the image by digest, its CUDA release and the size of the weights, as far as known.

    Raises `PreflightError` for an image or a prefix that cannot work. A check without permission gives a warning and is
    skipped, because deploying does not need that permission.
    """
    elsewhere = region_warning(spec.image, clients.region)
    if elsewhere:
        progress.warn(elsewhere)
    found = _check_image(spec, clients, progress)
    if spec.weights_gb is None and _source(spec):
        found |= _weigh(spec, clients, progress)
    quota = endpoint_quota(clients["service-quotas"], spec.instance_type)
    warning = quota_warning(quota, spec.instance_type, spec.instance_count)
    if warning:
        progress.warn(warning)
    return dataclasses.replace(spec, **found)


def _check_image(spec: DeploySpec, clients: Clients, progress: Progress) -> dict[str, Any]:
    try:
        report = inspect_image(spec.image, clients)
    except PreflightError as exc:
        if not _denied(exc):
            raise
        progress.warn(f"the image was not checked: {exc}")
        return {}
    report.raise_for_problems()
    for warning in report.warnings:
        progress.warn(warning)
    progress.step(f"image {report.uri} is fit for SageMaker ({report.size_bytes / 1e9:.1f} GB)")
    needs_cuda = report.cuda and not spec.ami_version and has_gpu(spec.instance_type)
    return {"image": report.uri, "cuda": spec.cuda or (report.cuda if needs_cuda else "")}


def _source(spec: DeploySpec) -> str:
    """Where the weights can be read from here, "" for those in the image."""
    if spec.model_s3:
        part = spec.model_id.removeprefix(MOUNT).lstrip("/")
        return spec.model_s3 + (part if not part or part.endswith(".gguf") else f"{part}/")
    return "" if spec.model_id.startswith("/") else spec.model_id


def _weigh(spec: DeploySpec, clients: Clients, progress: Progress) -> dict[str, Any]:
    """The weights' size. With the container's own token: what that cannot read, the container cannot either."""
    source = _source(spec)
    hub = Hub.from_environment(spec.environment, {"HF_TOKEN": spec.hf_token}, _without_tokens(os.environ))
    try:
        files = read_model(source, s3=clients["s3"], revision=spec.revision, hub=hub)
    except (ClientError, HubUnreachable, GgufInS3, SpecError) as exc:
        progress.warn(f"{source} was not weighed, so the timeouts are short unless you give weights_gb: {exc}")
        return {}
    except DeployError as exc:
        if spec.trust_custom_code:
            progress.warn(f"{source} was not weighed; the code in it must load its own model: {exc}")
            return {}
        raise PreflightError(f"{source} cannot be served: {exc}", remedy=exc.remedy) from exc
    problem = files.problem() or stored_form_problem(files.shape, spec.quantize)
    if problem:
        raise PreflightError(f"{source} cannot be served: {problem}")
    return {"weights_gb": round(files.shape.checkpoint_gb, 1)}


def _without_tokens(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key not in TOKEN_NAMES}


def _denied(error: PreflightError) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and cause.response["Error"]["Code"] in (
        "AccessDeniedException",
        "AccessDenied",
    )
