"""The container's environment, built from a specification, and warnings about risky entries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.spec import DeploySpec

MAX_ENTRIES = 100
MAX_LENGTH = 1024
MAX_TOTAL_BYTES = 32 * 1024
ASYNC_TIMEOUT_S = 3600  # SageMaker's longest asynchronous call
_SECRET = re.compile(r"TOKEN$|API_KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


def container_environment(spec: DeploySpec, region: str) -> dict[str, str]:
    """Return the environment for `spec`. The user's entries override derived ones.

    Unset options are omitted, so that the container's defaults apply. Raises `SpecError` beyond SageMaker's limits: 100
    entries, 1024 characters for a key or value, 32 KiB in total.
    """
    derived = {
        "HF_MODEL_ID": spec.model_id,
        "HF_MODEL_REVISION": spec.revision,
        "HF_MODEL_QUANTIZE": spec.quantize,
        "HF_MODEL_TRUST_REMOTE_CODE": "true" if spec.trust_remote_code else None,
        "SM_NUM_GPUS": spec.num_gpus,
        "MAX_INPUT_TOKENS": spec.max_input_tokens,
        "MAX_TOTAL_TOKENS": spec.max_total_tokens,
        "MAX_BATCH_PREFILL_TOKENS": spec.max_batch_prefill_tokens,
        "MAX_CONCURRENT_REQUESTS": spec.max_concurrent_requests,
        # The container's default is 55 s, because SageMaker cuts a real-time call at 60 s.
        "REQUEST_TIMEOUT_S": ASYNC_TIMEOUT_S if spec.asynchronous else None,
        "HF_TOKEN": spec.hf_token,
        "API_KEY": spec.api_key,
        "HF_HUB_OFFLINE": "1" if spec.network_isolation else None,
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": region,
    }
    environment = {key: str(value) for key, value in derived.items() if value not in (None, "")}
    environment.update(spec.environment)
    _check_limits(environment)
    return environment


def redacted(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a copy with secrets replaced by asterisks."""
    return {key: "********" if is_secret(key) else value for key, value in environment.items()}


def is_secret(key: str) -> bool:
    """True if a variable of this name usually contains a secret."""
    return _SECRET.search(key) is not None


def environment_warnings(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for secrets, which anyone with `sagemaker:DescribeModel` can read, and for API_KEY."""
    secrets = sorted(key for key, value in environment.items() if is_secret(key) and value)
    if secrets:
        yield (
            f"{', '.join(secrets)} will be stored in plain text in the model's Environment, where "
            "anyone allowed to call sagemaker:DescribeModel can read it. Prefer weights in S3 (no HF_TOKEN needed); "
            "IAM already controls access to the endpoint (no API_KEY needed)."
        )
    if "API_KEY" in environment:
        yield (
            "SageMaker drops the Authorization header, so a container that requires API_KEY on /invocations "
            "refuses every call that comes through SageMaker."
        )


def _check_limits(environment: Mapping[str, str]) -> None:
    if len(environment) > MAX_ENTRIES:
        raise SpecError(f"environment has {len(environment)} entries; SageMaker takes at most {MAX_ENTRIES}")
    for key, value in environment.items():
        if max(len(key), len(value)) > MAX_LENGTH:
            raise SpecError(f"environment variable {key} has {len(value)} characters; at most {MAX_LENGTH}")
    total = sum(len(key.encode()) + len(value.encode()) for key, value in environment.items())
    if total > MAX_TOTAL_BYTES:
        raise SpecError(f"environment has {total} bytes; SageMaker takes at most {MAX_TOTAL_BYTES}")
