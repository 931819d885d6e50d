"""The container's environment, built from a specification, and warnings about risky entries."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.container_settings import (
    GPU_NAMES,
    IGNORED,
    KNOWN,
    MODEL_NAMES,
    PORT_NAMES,
    QUANTIZE_NAMES,
    effective,
    problems,
    same_setting,
)
from sagemaker_deploy.request.instances import find_instance, has_gpu
from sagemaker_deploy.request.spec import DeploySpec, refused_quantization
from sagemaker_deploy.request.user_code import pointer

MAX_ENTRIES = 100
MAX_LENGTH = 1024
MAX_TOTAL_BYTES = 32 * 1024
ASYNC_TIMEOUT_S = 3600  # SageMaker's longest asynchronous call
REALTIME_LIMIT_S = 60  # and its longest whole answer
_SECRET = re.compile(r"TOKEN$|API_KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


def container_environment(spec: DeploySpec, region: str) -> dict[str, str]:
    """Return the environment for `spec`. The user's entries, under any name of a setting, override derived ones.

    Unset options are omitted, so that the container's defaults apply. Raises `SpecError` for a setting given both as a
    field and as an entry, for a value that the container or the instance type cannot use, and beyond SageMaker's
    limits: 100 entries, 1024 characters for a key or value, 32 KiB in total.
    """
    environment = {key: value for key, value in _derived(spec, region).items() if not _overridden(spec, key, value)}
    environment.update(spec.environment)
    _check_limits(environment)
    for problem in (*problems(environment), *platform_problems(environment, spec)):
        raise SpecError(problem)
    return environment


def _derived(spec: DeploySpec, region: str) -> dict[str, str]:
    derived = {
        "HF_MODEL_ID": spec.model_id,
        "HF_MODEL_REVISION": spec.revision,
        "HF_MODEL_QUANTIZE": spec.quantize,
        "HF_MODEL_TRUST_REMOTE_CODE": "true" if spec.trust_remote_code else None,
        "TRUST_CUSTOM_CODE": "true" if spec.trust_custom_code else None,
        "ENABLE_ADAPTERS": "true" if spec.enable_adapters else None,
        # The container looks into the mount by itself unless the model's directory is in the image.
        **(pointer() if spec.code_s3 and spec.model_id.startswith("/") else {}),
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
    return {key: str(value) for key, value in derived.items() if value not in (None, "")}


# Derived without a field of the specification, or from a field that has its default.
_DEFAULTS = {
    "HF_MODEL_QUANTIZE": ("auto",),
    "REQUEST_TIMEOUT_S": (str(ASYNC_TIMEOUT_S),),
    "SAGEMAKER_CONTAINER_LOG_LEVEL": ("20",),
}
_FIELDS = {
    "HF_MODEL_REVISION": "revision",
    "HF_MODEL_QUANTIZE": "quantize",
    "HF_MODEL_TRUST_REMOTE_CODE": "trust_remote_code",
    "TRUST_CUSTOM_CODE": "trust_custom_code",
    "ENABLE_ADAPTERS": "enable_adapters",
    "SM_NUM_GPUS": "num_gpus",
}


def _overridden(spec: DeploySpec, key: str, value: str) -> bool:
    """True if the user's entries hold this setting, under whichever name. Raises `SpecError` if a field does too."""
    given = [name for name in same_setting(key) if spec.environment.get(name)]
    if not given:
        return False
    is_default = value in _DEFAULTS.get(key, ()) or key in ("HF_HUB_OFFLINE", "SAGEMAKER_REGION")
    if not is_default and spec.environment[given[0]] != value:
        what = "the model" if key == "HF_MODEL_ID" else _FIELDS.get(key, key.lower())
        raise SpecError(f"{what} is given twice, as an option and as environment variable {given[0]}")
    return True


def platform_problems(environment: Mapping[str, str], spec: DeploySpec) -> Iterator[str]:
    """Yield why the container could not serve with this environment on SageMaker or on the instance type."""
    port = effective(environment, PORT_NAMES)
    if port not in ("", "8080"):
        yield f"environment variable {_named(environment, PORT_NAMES)} is {port}, and SageMaker calls port 8080"
    address = environment.get("BIND_ADDRESS", "").strip()
    if address.startswith("127.") or address in ("localhost", "::1"):
        yield f"environment variable BIND_ADDRESS is {address}, where SageMaker cannot call the container"
    yield from _model_problems(environment, spec)
    yield from _device_problems(environment, spec)


def _model_problems(environment: Mapping[str, str], spec: DeploySpec) -> Iterator[str]:
    model = effective(environment, MODEL_NAMES)
    if not model or model.startswith("/"):
        return
    if model.startswith(".") or model.count("/") != 1:
        yield f"model {model!r} is neither a path in the container nor a Hub id (organisation/name)"
    elif spec.network_isolation:
        yield f"model {model!r} needs the Hub, which network isolation cuts off"


def _device_problems(environment: Mapping[str, str], spec: DeploySpec) -> Iterator[str]:
    device, quantize = environment.get("DEVICE", "").strip(), effective(environment, QUANTIZE_NAMES)
    on_gpu, name = has_gpu(spec.instance_type), spec.instance_type
    if device.startswith("cuda") and not on_gpu:
        yield f"environment variable DEVICE is {device}, and {name} has no GPU"
    if quantize == "exl2":
        yield "quantize 'exl2' is always refused by the container"
    in_bfloat16 = environment.get("DTYPE", "").strip() in ("", "auto", "bfloat16")
    if device != "cpu" and (refused := refused_quantization(quantize, name, in_bfloat16=in_bfloat16)):
        yield refused
    gpus, instance = effective(environment, GPU_NAMES), find_instance(name)
    if instance is not None and gpus and int(gpus) > instance.num_gpus:
        yield f"{_named(environment, GPU_NAMES)} must be at most {instance.num_gpus} on {name}, got {gpus}"


def _named(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next(name for name in names if environment.get(name))


def redacted(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a copy with secrets replaced by asterisks."""
    return {key: "********" if is_secret(key) else value for key, value in environment.items()}


def is_secret(key: str) -> bool:
    """True if a variable of this name usually contains a secret."""
    return _SECRET.search(key) is not None


def environment_warnings(environment: Mapping[str, str], *, asynchronous: bool = False) -> Iterator[str]:
    """Yield warnings: secrets, which anyone with `sagemaker:DescribeModel` can read, API_KEY, and what does nothing."""
    secrets = sorted(key for key, value in environment.items() if is_secret(key) and value)
    if secrets:
        yield (
            f"{', '.join(secrets)} will be stored in plain text in the model's Environment, where "
            "anyone allowed to call sagemaker:DescribeModel can read it. Prefer weights in S3 (no HF_TOKEN needed); "
            "IAM already controls access to the endpoint (no API_KEY needed)."
        )
    if environment.get("API_KEY"):
        yield (
            "SageMaker drops the Authorization header, so a container that requires API_KEY on /invocations "
            "refuses every call that comes through SageMaker."
        )
    for name in sorted(environment.keys() & set(IGNORED)):
        yield f"the container ignores {name} (docs/migrate-from-tgi.md)"
    for name in sorted(environment.keys() - KNOWN - set(IGNORED)):
        near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.9)
        if near:
            yield f"the container does not know {name}; is {near[0]} meant?"
    timeout = environment.get("REQUEST_TIMEOUT_S", "")
    if not asynchronous and timeout and float(timeout) > REALTIME_LIMIT_S:
        yield f"REQUEST_TIMEOUT_S is {timeout}: SageMaker cuts a call after {REALTIME_LIMIT_S} s and the answer is lost"


def _check_limits(environment: Mapping[str, str]) -> None:
    if len(environment) > MAX_ENTRIES:
        raise SpecError(f"environment has {len(environment)} entries; SageMaker takes at most {MAX_ENTRIES}")
    for key, value in environment.items():
        if max(len(key), len(value)) > MAX_LENGTH:
            raise SpecError(f"environment variable {key} has {len(value)} characters; at most {MAX_LENGTH}")
    total = sum(len(key.encode()) + len(value.encode()) for key, value in environment.items())
    if total > MAX_TOTAL_BYTES:
        raise SpecError(f"environment has {total} bytes; SageMaker takes at most {MAX_TOTAL_BYTES}")
