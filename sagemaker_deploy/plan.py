"""What a deployment would do: requests, permissions, fit, cost, warnings. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.iam import Needs, caller_policy, execution_policy
from sagemaker_deploy.aws.image import ImageName, region_warning
from sagemaker_deploy.aws.quota import endpoint_quota, quota_warning
from sagemaker_deploy.request.adapter_room import adapter_room
from sagemaker_deploy.request.environment import environment_warnings, redacted
from sagemaker_deploy.request.instances import find_instance
from sagemaker_deploy.request.requests import Requests, build_requests
from sagemaker_deploy.request.spec import DeploySpec
from sagemaker_deploy.sizing.fit import Fit, Load, auto_warning, check_fit, default_load, fit_warnings, refusal
from sagemaker_deploy.sizing.model_shape import ModelShape
from sagemaker_deploy.sizing.model_source import read_model
from sagemaker_deploy.sizing.recommendation import Recommendation, recommend
from sagemaker_deploy.sizing.sizes import Sizes, assume, read_or_assume
from sagemaker_deploy.stand_ins import with_gaps

# The fit check reads these settings from the specification's fields or takes their defaults, whatever its environment
# says.
_FIT_VARIABLES = {"HF_MODEL_QUANTIZE", "QUANTIZE", "SM_NUM_GPUS", "NUM_SHARD", "ENGINE_REPLICAS", "DEVICE", "DTYPE"}


@dataclass(frozen=True)
class Plan:
    """Everything to review before deploying.

    `fit` and `recommendation` are None if the model's sizes are unknown; `fit` also if the instance type is. `missing`
    are the options that `deploy` still needs; stand-ins take their places in `spec` and `requests`. `quota` is None if
    it could not be read.
    """

    spec: DeploySpec
    region: str
    requests: Requests
    warnings: tuple[str, ...]
    sizes: Sizes = field(default_factory=Sizes)
    load: Load | None = None
    fit: Fit | None = None
    recommendation: Recommendation | None = None
    quota: float | None = None
    missing: tuple[str, ...] = ()

    @property
    def recommended(self) -> Fit | None:
        """The fit on the recommended instance type."""
        return self.recommendation.best if self.recommendation else None

    @property
    def cost(self) -> str:
        """How the endpoint is billed, "" without an instance type."""
        return "" if "--instance-type" in self.missing else cost_note(self.spec)

    @property
    def execution_policy(self) -> dict[str, Any] | None:
        """The policy of the endpoint's role, None while the image or the place of the weights is missing."""
        return None if {"--image", "--upload-to"} & {*self.missing} else execution_policy(needs_of(self.spec))

    @property
    def caller_policy(self) -> dict[str, Any] | None:
        """The policy of who deploys, None while image, role or region are missing."""
        if {"--image", "--role", "--region"} & {*self.missing}:
            return None
        return caller_policy(ImageName.parse(self.spec.image).account, self.region, self.spec.role)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form with secrets redacted, and `<--option>` in place of what is missing."""
        bodies = self.requests.by_operation()
        container = self.requests.model["PrimaryContainer"]
        covered = {**container, "Environment": redacted(container["Environment"])}
        bodies |= {"CreateModel": {**self.requests.model, "PrimaryContainer": covered}}
        alternatives = self.recommendation.alternatives if self.recommendation else ()
        return {
            "requests": with_gaps(bodies, self.missing),
            "missing": list(self.missing),
            "execution_policy": self.execution_policy,
            "caller_policy": self.caller_policy,
            "cost": self.cost,
            "warnings": list(self.warnings),
            "sizes": sizes_dict(self.sizes),
            "fit": self.fit.sentence() if self.fit else None,
            "recommended": self.recommended.sentence() if self.recommended else None,
            "alternatives": [fit.sentence() for fit in alternatives],
        }


def make_plan(
    spec: DeploySpec,
    region: str,
    *,
    shape: ModelShape | None = None,
    load: Load | None = None,
    clients: Clients | None = None,
    sizes: Sizes | None = None,
    missing: Sequence[str] = (),
) -> Plan:
    """Return the plan for `spec`. Without `clients` nothing is sent; with them the quota is read if permitted.

    The model's sizes are `sizes`, or just its `shape`.
    """
    sizes, draft_warning = _with_draft(_with_keys(sizes or Sizes(shape), spec), spec)
    requests = build_requests(spec, region)
    sizes = _with_adapters(sizes, requests)
    fit, recommendation = None, None
    warnings = list(_spec_warnings(spec, region, requests, missing))
    warnings += [sizes.problem] if sizes.problem else []
    if sizes.shape is not None:
        load = load or default_load(sizes.shape, spec.max_total_tokens, spec.max_concurrent_requests)
        fit, recommendation = _fits(spec, sizes.shape, load)
        refused = refusal(sizes.shape)
        warnings += [f"no instance is recommended: {refused}"] if refused else []
        warnings += _fit_warnings(spec, sizes.shape, load, fit) if "--instance-type" not in missing else []
        warnings += _ignored_variables(spec)
        warnings += [draft_warning] if draft_warning else []
    quota = _quota(spec, clients) if "--instance-type" not in missing else None
    warning = quota_warning(quota, spec.instance_type, spec.instance_count)
    warnings += [warning] if warning else []
    return Plan(spec, region, requests, tuple(warnings), sizes, load, fit, recommendation, quota, tuple(missing))


def sizes_dict(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes in a JSON-ready form."""
    shape = sizes.shape
    return {
        "parameters": shape.num_params if shape else None,
        "kv_bytes_per_token": shape.kv_bytes_per_token if shape else None,
        "checkpoint_gb": round(shape.checkpoint_gb, 2) if shape else None,
        "read_from": sizes.read_from,
        "not_read": sizes.not_read,
        "assumed": sizes.assumed,
    }


def _quota(spec: DeploySpec, clients: Clients | None) -> float | None:
    return endpoint_quota(clients["service-quotas"], spec.instance_type) if clients else None


def needs_of(spec: DeploySpec) -> Needs:
    """Return what the endpoint's role must be allowed to use."""
    asynchronous = spec.asynchronous
    writes = [uri for uri in (asynchronous.output, asynchronous.failure) if uri] if asynchronous else []
    topics = [asynchronous.success_topic, asynchronous.error_topic] if asynchronous else []
    return Needs(
        image=spec.image,
        reads=(spec.mounted,) if spec.mounted else (),
        writes=tuple(writes),
        topics=tuple(filter(None, topics)),
        vpc=spec.vpc is not None,
    )


def cost_note(spec: DeploySpec) -> str:
    """Say how the endpoint is billed. No prices: they vary by region and change."""
    if spec.component and spec.component.min_instances == 0:
        count = f"0 to {spec.component.max_instances}"
    elif spec.component:
        count = f"{spec.component.min_instances} to {spec.component.max_instances}"
    else:
        count = str(spec.instance_count)
    return (
        f"{count} x {spec.instance_type}, each billed from start to deletion or scale-in, busy or idle: "
        f"{spec.instance_count} instance-hour(s) for every hour at the initial size. Stored weights, logs and the "
        "image are billed separately. Prices: SageMaker's pricing page, real-time inference, for your region."
    )


def _with_keys(sizes: Sizes, spec: DeploySpec) -> Sizes:
    """The sizes with keys and values as the container's environment sets them."""
    wanted = spec.environment.get("KV_CACHE_DTYPE", "")
    return sizes if sizes.shape is None else replace(sizes, shape=sizes.shape.with_keys(wanted))


def _with_adapters(sizes: Sizes, requests: Requests) -> Sizes:
    """The sizes with the memory that the container's environment sets aside for adapters on a GPU."""
    room = adapter_room(requests.model["PrimaryContainer"]["Environment"])
    return sizes if sizes.shape is None else replace(sizes, shape=sizes.shape.with_adapters(*room))


def _with_draft(sizes: Sizes, spec: DeploySpec) -> tuple[Sizes, str]:
    """The sizes with the draft model that the container's environment names, and a warning if its size is unknown."""
    name = spec.environment.get("SPECULATIVE_MODEL", "")
    if sizes.shape is None or not name:
        return sizes, ""
    draft = read_or_assume(lambda: read_model(name), name) if Path(name).exists() else assume(name, "")
    if draft.shape is None:
        return sizes, f"the fit check leaves out the draft model {name!r}: its name tells no size"
    keys = spec.environment.get("KV_CACHE_DTYPE", "")
    return replace(sizes, shape=sizes.shape.with_draft(draft.shape.with_keys(keys))), ""


def _fits(spec: DeploySpec, shape: ModelShape, load: Load) -> tuple[Fit | None, Recommendation | None]:
    instance, max_gpus = find_instance(spec.instance_type), _max_gpus(spec)
    fit = check_fit(shape, load, instance, spec.quantize, max_gpus) if instance else None
    return fit, recommend(shape, load, spec.quantize, max_gpus=max_gpus)


def _max_gpus(spec: DeploySpec) -> int | None:
    """A component sees only the GPUs it asks for."""
    return spec.num_gpus or (spec.component.num_gpus if spec.component else None)


def _fit_warnings(spec: DeploySpec, shape: ModelShape, load: Load, fit: Fit | None) -> Iterator[str]:
    if fit is None:
        yield "the fit was not checked: the instance type is not in the table of GPU instances"
        return
    if not fit.fits and not fit.refused:
        yield f"the model {fit.sentence()}"
    if spec.quantize == "auto":
        warning = auto_warning(shape, load, fit, _max_gpus(spec))
        yield from [warning] if warning else []
    yield from fit_warnings(shape, load, fit)


def _ignored_variables(spec: DeploySpec) -> Iterator[str]:
    overriding = sorted(_FIT_VARIABLES & spec.environment.keys())
    if overriding:
        yield f"the fit check ignores {', '.join(overriding)} from the environment; the container obeys them"


def _spec_warnings(spec: DeploySpec, region: str, requests: Requests, missing: Sequence[str]) -> Iterator[str]:
    yield from requests.violations()
    yield from environment_warnings(
        requests.model["PrimaryContainer"]["Environment"], asynchronous=spec.asynchronous is not None
    )
    if not {"--image", "--region"} & {*missing}:
        elsewhere = region_warning(spec.image, region)
        yield from [elsewhere] if elsewhere else []
    if "--image" not in missing and not ImageName.parse(spec.image).digest:
        yield (
            "the image is named by tag: if the tag moves, new instances run another image than the old "
            "ones; name it by digest, as `deploy` does after reading ECR"
        )
    if spec.model_id and not spec.model_id.startswith("/") and spec.vpc:
        yield "the model comes from the Hub: the VPC needs internet access (NAT), or copy the weights to S3"
    if not spec.model_id and not spec.model_s3 and "HF_MODEL_ID" not in spec.environment:
        yield "no model was given: the container serves the small default model in its image"
    if spec.trust_remote_code:
        yield "trust_remote_code runs Python from the model's repository with the endpoint's role"
    if spec.trust_custom_code:
        yield "trust_custom_code runs inference.py, handler.py or model.py with the endpoint's role"
