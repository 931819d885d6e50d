"""Checks image, quota and weights before anything is created, and completes the specification."""

from __future__ import annotations

import dataclasses
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.image import inspect_image
from sagemaker_deploy.aws.quota import endpoint_quota, quota_warning
from sagemaker_deploy.errors import DeployError, PreflightError
from sagemaker_deploy.progress import Progress
from sagemaker_deploy.request.spec import DeploySpec
from sagemaker_deploy.sizing.model_source import load_shape


def resolve(spec: DeploySpec, clients: Clients, progress: Progress) -> DeploySpec:
    """Return `spec` with the image by digest, its CUDA release and the size of the weights, as far as known.

    Raises `PreflightError` for an image or a prefix that cannot work. A check without permission gives a warning and is
    skipped, because deploying does not need that permission.
    """
    found = _check_image(spec, clients, progress)
    if spec.weights_gb is None and spec.model_s3:
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
    return {"image": report.uri, "cuda": spec.cuda or report.cuda}


def _weigh(spec: DeploySpec, clients: Clients, progress: Progress) -> dict[str, Any]:
    try:
        shape = load_shape(spec.model_s3, s3=clients["s3"])
    except ClientError as exc:
        progress.warn(f"{spec.model_s3} was not checked: {exc}")
        return {}
    except DeployError as exc:
        raise PreflightError(f"{spec.model_s3} cannot be served: {exc}", remedy=exc.remedy) from exc
    return {"weights_gb": round(shape.checkpoint_gb, 1)}


def _denied(error: PreflightError) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and cause.response["Error"]["Code"] in (
        "AccessDeniedException",
        "AccessDenied",
    )
