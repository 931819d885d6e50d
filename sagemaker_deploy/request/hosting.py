"""Hosting parameters derived from model and image: timeouts, and the host image (AMI) with its driver."""

from __future__ import annotations

import math
import re

from sagemaker_deploy.request.instances import find_instance, has_gpu

MAX_TIMEOUT_S = 3600  # limit of both timeouts in botocore's service model
NEWEST_AMI = "al2023-ami-sagemaker-inference-gpu-4-1"  # driver 580, CUDA 13.0
CUDA_12_AMI = "al2-ami-sagemaker-inference-gpu-3-1"  # driver 550, CUDA 12.4
# Families whose default host has driver 470, which runs nothing newer than CUDA 11.4 (SageMaker's developer guide,
# "GPU drivers for inference instances"). All others have 535 or newer.
_OLD_DRIVER = re.compile(r"ml\.(g4dn|g5|p4d|p4de)\.")


def health_check_timeout_s(weights_gb: float | None) -> int:
    """Seconds from the container's start to its first 200 on /ping.

    SageMaker's default of 8 minutes is too short for models over 13 billion parameters. Pulling the image and loading
    weights take at worst about a minute for each gigabyte, hence 60 s/GB, at least 10 minutes and at most one hour.
    """
    return _bounded(60 * (weights_gb or 0))


def download_timeout_s(weights_gb: float | None) -> int:
    """Seconds for SageMaker to copy weights from S3: 30 s/GB, ten times what one instance usually needs."""
    return _bounded(30 * (weights_gb or 0))


def host_ami_version(cuda: str, instance_type: str) -> str:
    """Return the `InferenceAmiVersion` that an image needs, "" for the default.

    CUDA 13 and Blackwell GPUs need the newest host image, as AWS's own CUDA 13 images do. A CUDA 12 image needs driver
    525, by CUDA's minor-version compatibility: g4dn, g5, p4d and p4de do not have it by default.
    """
    if not has_gpu(instance_type):
        return ""
    instance = find_instance(instance_type)
    major = int(cuda.split(".")[0]) if cuda else 0
    if major >= 13 or (instance is not None and instance.needs_new_driver):
        return NEWEST_AMI
    return CUDA_12_AMI if _OLD_DRIVER.match(instance_type) else ""


def _bounded(seconds: float) -> int:
    return min(MAX_TIMEOUT_S, max(600, math.ceil(seconds)))
