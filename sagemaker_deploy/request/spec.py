"""The specification: everything that decides what is created, valid by construction.

A `DeploySpec` is immutable, and equal specifications give equal AWS requests, which makes a rerun harmless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from model_memory.forms import quantized
from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.instances import find_instance, has_gpu

# HF_MODEL_QUANTIZE's values (docs/quantisation.md); exl2 is missing because the container always refuses it.
STORED_QUANTIZATIONS = ("gptq", "awq", "marlin", "compressed-tensors", "fp8")
QUANTIZATIONS = (
    *("auto", "none", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4", "eetq", "int8", "int4"),
    *STORED_QUANTIZATIONS,
)
ROUTING_STRATEGIES = ("LEAST_OUTSTANDING_REQUESTS", "RANDOM", "PREFIX_AWARE")
ENDPOINT_TAG = "tgi-heir:endpoint"
MAX_NAME_LENGTH = 50  # derived names add up to 13 characters; SageMaker's limit is 63
_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
_ROLE = re.compile(r"arn:aws[a-z\-]*:iam::\d{12}:role/.+")
_VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class AsyncOptions:
    """An asynchronous endpoint: requests and answers pass through S3, and a call may take up to an hour."""

    output: str
    failure: str = ""
    max_concurrent: int | None = None
    success_topic: str = ""
    error_topic: str = ""

    def __post_init__(self) -> None:
        _require_s3("async output", self.output)
        if self.failure:
            _require_s3("async failure", self.failure)
        if self.max_concurrent is not None and not 1 <= self.max_concurrent <= 1000:
            raise SpecError(f"async max_concurrent must be 1 to 1000, got {self.max_concurrent}")


@dataclass(frozen=True, kw_only=True)
class ComponentOptions:
    """An inference component: the only real-time endpoint that can scale to zero instances."""

    memory_mib: int
    num_gpus: int = 1
    copies: int = 1
    min_instances: int = 0
    max_instances: int = 1

    def __post_init__(self) -> None:
        if self.memory_mib < 128:
            raise SpecError(f"component memory_mib must be at least 128, got {self.memory_mib}")
        if self.num_gpus < 0 or self.copies < 0:
            raise SpecError(f"component num_gpus and copies must be at least 0, got {self.num_gpus} and {self.copies}")
        if not 0 <= self.min_instances <= self.max_instances:
            raise SpecError(
                f"component min_instances must be 0 to max_instances, which is {self.max_instances}, "
                f"got {self.min_instances}"
            )


@dataclass(frozen=True, kw_only=True)
class VpcOptions:
    """The VPC of the instances. Without NAT or VPC endpoints they reach neither the Hub nor S3."""

    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.subnets or not self.security_groups:
            raise SpecError("a VPC needs both subnets and security groups")


@dataclass(frozen=True, kw_only=True)
class DeploySpec:
    """One endpoint with one model.

    The weights come from the Hub (`model_id`), from an S3 prefix (`model_s3`, uncompressed, ends with "/") or, with
    neither, from the image. With `model_s3`, a `model_id` must be a path below `/opt/ml/model`. `trust_custom_code`
    lets the container run the user's code. That lies in `model_s3`, or in `code_s3` beside a model that is elsewhere.
    `weights_gb` (10^9 bytes) determines the timeouts; None leaves them at their minimum. `cuda` is the image's CUDA
    release ("13.0"); it selects the host image unless `ami_version` is given.

    Raises `SpecError` naming the field if a value is out of range or two exclude each other.
    """

    name: str
    image: str
    role: str
    instance_type: str
    instance_count: int = 1
    model_id: str = ""
    revision: str = ""
    model_s3: str = ""
    quantize: str = "auto"
    trust_remote_code: bool = False
    trust_custom_code: bool = False
    code_s3: str = ""
    enable_adapters: bool = False
    num_gpus: int | None = None
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    max_batch_prefill_tokens: int | None = None
    max_concurrent_requests: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    hf_token: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    tags: Mapping[str, str] = field(default_factory=dict)
    network_isolation: bool = False
    vpc: VpcOptions | None = None
    asynchronous: AsyncOptions | None = None
    component: ComponentOptions | None = None
    weights_gb: float | None = None
    health_check_s: int | None = None
    download_s: int | None = None
    volume_gb: int | None = None
    cuda: str = ""
    ami_version: str = ""
    routing: str = "LEAST_OUTSTANDING_REQUESTS"

    def __post_init__(self) -> None:
        self._check_names()
        self._check_model()
        self._check_ranges()
        self._check_gpus()
        self._check_idle()
        if self.asynchronous and self.component:
            raise SpecError("an asynchronous endpoint scales to zero by itself and takes no inference component")

    def _check_names(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > MAX_NAME_LENGTH:
            raise SpecError(
                f"name {self.name!r} must be letters, digits and single hyphens between them, "
                f"at most {MAX_NAME_LENGTH} characters"
            )
        if not _ROLE.fullmatch(self.role):
            raise SpecError(f"role {self.role!r} must be the ARN of a role; `role` creates one")
        if not self.image or any(c.isspace() for c in self.image):
            raise SpecError(f"image {self.image!r} must be an ECR image URI")
        if ENDPOINT_TAG in self.tags:
            raise SpecError(f"the tag {ENDPOINT_TAG} is the helper's own, by which it finds what it made")
        if self.cuda and not re.fullmatch(r"\d+(\.\d+)*", self.cuda):
            raise SpecError(f"cuda {self.cuda!r} must be a release such as 13.0")
        for key in self.environment:
            if not _VARIABLE.fullmatch(key):
                raise SpecError(f"environment variable {key!r} must match {_VARIABLE.pattern}")

    def _check_model(self) -> None:
        if self.model_s3:
            _require_s3("model_s3", self.model_s3)
            if not self.model_s3.endswith("/"):
                raise SpecError(f"model_s3 {self.model_s3!r} is a prefix and must end with '/'")
            if self.model_id and not self.model_id.startswith("/opt/ml/model"):
                raise SpecError("model_id and model_s3 exclude each other; S3 files appear in /opt/ml/model")
        self._check_code()
        if self.model_id and not self.model_id.startswith("/") and not re.fullmatch(r"[^./][^/]*/[^/]+", self.model_id):
            raise SpecError(
                f"model_id {self.model_id!r} must be a Hub id (organisation/name) or a path in the container"
            )
        if self.model_id and not self.model_id.startswith("/") and self.network_isolation:
            raise SpecError(
                f"model_id {self.model_id!r} needs the Hub, which network isolation cuts off",
                remedy="upload the weights with `upload` and give model_s3 instead",
            )
        if self.quantize not in QUANTIZATIONS:
            raise SpecError(f"quantize {self.quantize!r} must be one of {', '.join(QUANTIZATIONS)}")
        if refused := refused_quantization(self.quantize, self.instance_type):
            raise SpecError(refused, remedy="use bitsandbytes or bitsandbytes-nf4 there")

    def _check_code(self) -> None:
        if not self.code_s3:
            return
        _require_s3("code_s3", self.code_s3)
        if not self.code_s3.endswith("/"):
            raise SpecError(f"code_s3 {self.code_s3!r} is a prefix and must end with '/'")
        if self.model_s3 or not self.model_id:
            raise SpecError("code_s3 is for a model that is not in S3; give model_s3 alone, with the code in it")
        if not self.trust_custom_code:
            raise SpecError("code_s3 does nothing without trust_custom_code")

    def _check_gpus(self) -> None:
        """Neither the container nor SageMaker starts with more GPUs than the instance has."""
        instance, component = find_instance(self.instance_type), self.component
        wanted = {"num_gpus": self.num_gpus, "component num_gpus": self.component.num_gpus if self.component else None}
        for name, value in wanted.items():
            if instance is not None and (value or 0) > instance.num_gpus:
                raise SpecError(f"{name} must be at most {instance.num_gpus} on {instance.name}, got {value}")
            if value and not has_gpu(self.instance_type):
                raise SpecError(f"{name} must be 0 on {self.instance_type}, which has no GPU, got {value}")
        if component is None:
            return
        if (self.num_gpus or 0) > component.num_gpus:
            raise SpecError(f"num_gpus {self.num_gpus} is more than the component's num_gpus, {component.num_gpus}")
        if instance is not None and component.copies * component.num_gpus > component.max_instances * instance.num_gpus:
            raise SpecError(
                f"component copies {component.copies} need {component.copies * component.num_gpus} GPUs, and "
                f"{component.max_instances} x {instance.name} have {component.max_instances * instance.num_gpus}"
            )
        if self.instance_count > component.max_instances:
            raise SpecError(
                f"instance_count must be at most the component's max_instances, {component.max_instances}, "
                f"got {self.instance_count}"
            )

    def _check_idle(self) -> None:
        """Raise for a field that does nothing beside the others."""
        hub = self._uses_hub()
        idle = {
            "revision": bool(self.revision) and not hub and "a model from the Hub",
            "hf_token": bool(self.hf_token) and not hub and "a model from the Hub",
            "download_s": self.download_s is not None and not self.mounted and "model_s3",
            "cuda": bool(self.cuda) and not has_gpu(self.instance_type) and "a GPU instance",
        }
        for name, needed in idle.items():
            if needed:
                raise SpecError(f"{name} does nothing without {needed}")
        if self.cuda and self.ami_version:
            raise SpecError("cuda does nothing beside ami_version, which it would choose")
        instance = find_instance(self.instance_type)
        if self.volume_gb is not None and instance is not None and instance.nvme_gb:
            raise SpecError(f"volume_gb is for instance types without local disk, and {instance.name} has one")

    @property
    def mounted(self) -> str:
        """The S3 prefix whose files SageMaker puts into /opt/ml/model, "" if there is none."""
        return self.model_s3 or self.code_s3

    def _uses_hub(self) -> bool:
        """True if the container may download from the Hub; an entry of the environment may name the model too."""
        named = self.model_id or self.environment.get("HF_MODEL_ID") or self.environment.get("MODEL_ID") or ""
        return bool(named) and not named.startswith("/")

    def _check_ranges(self) -> None:
        for name, (lower, upper) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not lower <= value <= upper:
                raise SpecError(f"{name} must be {lower} to {upper}, got {value}")
        if self.max_input_tokens and self.max_total_tokens and self.max_input_tokens >= self.max_total_tokens:
            raise SpecError(
                f"max_input_tokens {self.max_input_tokens} must be below max_total_tokens {self.max_total_tokens}"
            )
        if self.routing not in ROUTING_STRATEGIES:
            raise SpecError(f"routing {self.routing!r} must be one of {', '.join(ROUTING_STRATEGIES)}")


_RANGES: dict[str, tuple[float, float]] = {
    "instance_count": (1, 1000),
    "num_gpus": (0, 8),
    "max_input_tokens": (1, 2**31),
    "max_total_tokens": (2, 2**31),
    "max_batch_prefill_tokens": (1, 2**31),
    "max_concurrent_requests": (1, 2**20),
    "weights_gb": (0, 100_000),
    "health_check_s": (60, 3600),
    "download_s": (60, 3600),
    "volume_gb": (1, 512),
}


def refused_quantization(quantize: str, instance_type: str, *, in_bfloat16: bool = True) -> str:
    """Return why the container refuses to make this form on the GPUs of a known instance type, "" if it does not."""
    instance = find_instance(instance_type)
    if instance is None or not quantized(quantize, instance.capability, in_bfloat16=in_bfloat16).refused:
        return ""
    number = f"{instance.capability // 10}.{instance.capability % 10}"
    given = f"the {instance.gpu} of {instance.name} has {number}" if in_bfloat16 else "DTYPE is another"
    return f"quantize {quantize!r} computes in bfloat16 on a GPU of compute capability 8.0 or more, and {given}"


def _require_s3(what: str, uri: str) -> None:
    if not re.fullmatch(r"s3://[^/]+/?.*", uri):
        raise SpecError(f"{what} {uri!r} must be an s3:// URI")
