"""Known failures of an endpoint, recognised in SageMaker's failure reason or in the container's log.

The first match wins, so specific causes come before general ones: a container that crashed also "did not pass the ping
health check".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """A known cause. `pattern` is searched, ignoring case, in the failure reason and the last log lines."""

    name: str
    pattern: str
    cause: str
    remedy: str


KNOWN_FAILURES = (
    Failure(
        "manifest-type",
        r"Unsupported manifest media type|oci\.image\.(index|manifest)",
        "the image has an OCI manifest, usually from buildx attestations or the containerd image store",
        "push it again with the command that `image` prints "
        "(--provenance=false --sbom=false, oci-mediatypes=false), "
        "or convert it: skopeo copy --format v2s2",
    ),
    Failure(
        "architecture",
        r"exec format error",
        "the image was built for another processor, usually arm64 on an Apple laptop",
        "build with --platform linux/amd64",
    ),
    Failure(
        "no-serve",
        r'exec: "serve": executable file not found|"serve": executable file not found|serve: no such file',
        "SageMaker runs `docker run IMAGE serve`; the image has neither an entry point nor a `serve`",
        "use an exec-form ENTRYPOINT and put an executable `serve` with Unix line endings on PATH",
    ),
    Failure(
        "bind-label",
        r"accept-bind-to-port",
        "a container in a pipeline or multi-container endpoint must be able to listen on another port",
        'add LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true" to the image',
    ),
    Failure(
        "role",
        r"Could not assume role|is not authorized to perform: iam:PassRole",
        "SageMaker may not assume the execution role, or you may not pass it",
        "create the role with `role`, wait a minute for IAM, and allow yourself iam:PassRole on it",
    ),
    Failure(
        "pull",
        r"(pull|access|permission).{0,60}ECR image|ecr:(BatchGet|GetDownload)|repository .* not found",
        "the execution role may not pull the image, or the image does not exist",
        "check it with `image`; the role needs ecr:BatchGetImage and ecr:GetDownloadUrlForLayer on it",
    ),
    Failure(
        "capacity",
        r"InsufficientInstanceCapacity|CapacityError|Unable to provision|insufficient capacity",
        "AWS has no free instance of this type in the region at the moment",
        "try again later, another size or family (`plan` lists what fits), or another region",
    ),
    Failure(
        "quota",
        r"ResourceLimitExceeded|account-level service limit",
        "the account's quota for this instance type is used up; for GPU instances it starts at 0",
        'ask for "ml.… for endpoint usage" under Service Quotas > Amazon SageMaker',
    ),
    Failure(
        "driver",
        r"forward compatibility|driver (version is insufficient|.{0,40}too old)|no kernel image is",
        "the host's NVIDIA driver is older than the image's CUDA",
        "set InferenceAmiVersion (--cuda 13.0 does), or use the image with CUDA 12",
    ),
    Failure(
        "cuda-memory",
        r"CUDA out of memory|torch\.OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED",
        "the model does not fit the GPU",
        "see `plan` for what fits; quantise, lower MAX_TOTAL_TOKENS or use a larger instance",
    ),
    Failure(
        "cuda-fork",
        r"Cannot re-initialize CUDA in forked subprocess",
        "CUDA was used before the process forked, as gunicorn --preload does with torch",
        "load the model inside the worker; this image's server does",
    ),
    Failure(
        "shared-memory",
        r"unable to open shared memory|/dev/shm.{0,40}No space|insufficient shared memory|bus error",
        "shared memory is 64 MB in a plain local container",
        "run docker with --shm-size 2g; on SageMaker it is half of the host's memory",
    ),
    Failure(
        "read-only",
        r"Read-only file system",
        "something writes below /opt/ml/model, which SageMaker mounts read-only",
        "put every cache below /tmp (HF_HOME, XDG_CACHE_HOME, TRITON_CACHE_DIR, TORCHINDUCTOR_CACHE_DIR)",
    ),
    Failure(
        "disk",
        r"No space left on device|disk quota exceeded",
        "the root disk is small, and something copies the model or fills a cache",
        "load the model from its mount and put caches below /tmp; set volume_gb if the instance type has no local disk",
    ),
    Failure(
        "hub",
        r"LocalEntryNotFoundError|GatedRepoError|RepositoryNotFoundError|offline mode is enabled"
        r"|huggingface\.co.{0,200}(timed out|failed|error|40[13]|429)|Max retries exceeded",
        "the model could not be downloaded from the Hub: network isolation, a VPC without internet access, a "
        "gated or misspelt model, or a rate limit",
        "copy the weights to S3 with `upload` and deploy with model_s3",
    ),
    Failure(
        "worker-timeout",
        r"WORKER TIMEOUT",
        "gunicorn killed a worker that was busy for longer than its --timeout",
        "use workers that stay responsive while they generate, and --timeout of an hour for asynchronous calls",
    ),
    Failure(
        "invocation-timeout",
        r"timed out while waiting for a response|ModelInvocationTimeExceeded",
        "a call took longer than the platform allows: 60 s, or 8 minutes for a stream",
        "stream, lower max_tokens, or use an asynchronous endpoint (up to an hour)",
    ),
    Failure(
        "payload",
        r"\(413\)|413 Request Entity Too Large|Request size .* exceeds",
        "the body exceeds the limit of container or platform (25 MB; 128,000 bytes inline for async)",
        "send less, or upload the input to S3 and call asynchronously",
    ),
    Failure(
        "killed",
        r"exit(ed with)? (code )?137|Out of memory: Killed|OOMKilled|\bSIGKILL\b|signal 9",
        "the host ran out of memory and killed the process",
        "use a larger size of the same family: same GPU, more memory",
    ),
    Failure(
        "download-timeout",
        r"(failed|timed out).{0,40}download.{0,40}model|download.{0,40}timed out",
        "SageMaker could not copy the weights from S3 in time",
        "raise download_s (up to 3600), or check that the role may read the prefix",
    ),
    Failure(
        "ping",
        r"did not pass the ping health check|ping health check",
        "the container did not answer GET /ping with 200 on port 8080 in time; see the log lines",
        "if it was still loading raise health_check_s (up to 3600); check the image with `check` and `local`",
    ),
)


def explain(reason: str, log_lines: Iterable[str] = ()) -> Failure | None:
    """Return the first known failure that matches `log_lines` or `reason`, or None."""
    text = "\n".join((*log_lines, reason))
    for failure in KNOWN_FAILURES:
        if re.search(failure.pattern, text, re.IGNORECASE):
            return failure
    return None
