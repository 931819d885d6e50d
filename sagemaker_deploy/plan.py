"""What a deployment would do: requests, permissions, fit, cost, warnings. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.iam import Needs, caller_policy, execution_policy
from sagemaker_deploy.aws.image import ImageName
from sagemaker_deploy.aws.quota import endpoint_quota, quota_warning
from sagemaker_deploy.request.environment import environment_warnings, redacted
from sagemaker_deploy.request.instances import find_instance
from sagemaker_deploy.request.requests import Requests, build_requests
from sagemaker_deploy.request.spec import DeploySpec
from sagemaker_deploy.sizing.fit import Fit, Load, check_fit, fit_warnings, recommend
from sagemaker_deploy.sizing.model_shape import ModelShape

# The fit check reads these settings from the specification's fields, not from its environment.
_FIT_VARIABLES = {"HF_MODEL_QUANTIZE", "QUANTIZE", "SM_NUM_GPUS", "NUM_SHARD", "ENGINE_REPLICAS", "DEVICE"}


@dataclass(frozen=True)
class Plan:
    """Everything to review before deploying. `fit` and `recommended` are None if the model's sizes are unknown."""

    requests: Requests
    execution_policy: dict[str, Any]
    caller_policy: dict[str, Any]
    cost: str
    warnings: tuple[str, ...]
    fit: Fit | None = None
    recommended: Fit | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form with secrets redacted."""
        bodies = self.requests.by_operation()
        container = self.requests.model["PrimaryContainer"]
        covered = {**container, "Environment": redacted(container["Environment"])}
        return {
            "requests": bodies | {"CreateModel": {**self.requests.model, "PrimaryContainer": covered}},
            "execution_policy": self.execution_policy,
            "caller_policy": self.caller_policy,
            "cost": self.cost,
            "warnings": list(self.warnings),
            "fit": self.fit.sentence() if self.fit else None,
            "recommended": self.recommended.sentence() if self.recommended else None,
        }


def make_plan(
    spec: DeploySpec,
    region: str,
    *,
    shape: ModelShape | None = None,
    load: Load | None = None,
    clients: Clients | None = None,
) -> Plan:
    """Return the plan for `spec`. Without `clients` nothing is sent; with them the quota is read if permitted."""
    requests = build_requests(spec, region)
    fit = recommended = None
    warnings = list(_spec_warnings(spec, requests))
    if shape is not None:
        load = load or default_load(spec, shape)
        fit, recommended = _fits(spec, shape, load)
        warnings += _fit_warnings(shape, load, fit)
        warnings += _ignored_variables(spec)
    if clients is not None:
        quota = endpoint_quota(clients["service-quotas"], spec.instance_type)
        warning = quota_warning(quota, spec.instance_type, spec.instance_count)
        warnings += [warning] if warning else []
    account = ImageName.parse(spec.image).account
    return Plan(
        requests,
        execution_policy(needs_of(spec)),
        caller_policy(account, region, spec.role),
        cost_note(spec),
        tuple(warnings),
        fit,
        recommended,
    )


def default_load(spec: DeploySpec, shape: ModelShape) -> Load:
    """Return the load that the specification's limits allow; by default 8 requests of at most 4096 tokens."""
    context = spec.max_total_tokens or min(shape.max_context or 4096, 4096)
    return Load(context, min(spec.max_concurrent_requests or 8, 128))


def needs_of(spec: DeploySpec) -> Needs:
    """Return what the endpoint's role must be allowed to use."""
    asynchronous = spec.asynchronous
    writes = [uri for uri in (asynchronous.output, asynchronous.failure) if uri] if asynchronous else []
    topics = [asynchronous.success_topic, asynchronous.error_topic] if asynchronous else []
    return Needs(
        image=spec.image,
        reads=(spec.model_s3,) if spec.model_s3 else (),
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


def _fits(spec: DeploySpec, shape: ModelShape, load: Load) -> tuple[Fit | None, Fit | None]:
    instance = find_instance(spec.instance_type)
    # A component sees only the GPUs it asks for.
    max_gpus = spec.num_gpus or (spec.component.num_gpus if spec.component else None)
    fit = check_fit(shape, load, instance, spec.quantize, max_gpus) if instance else None
    return fit, recommend(shape, load, spec.quantize, max_gpus=max_gpus)


def _fit_warnings(shape: ModelShape, load: Load, fit: Fit | None) -> Iterator[str]:
    if fit is None:
        yield "the fit was not checked: the instance type is not in the table of GPU instances"
        return
    if not fit.fits:
        yield f"the model {fit.sentence()}"
    yield from fit_warnings(shape, load, fit)


def _ignored_variables(spec: DeploySpec) -> Iterator[str]:
    overriding = sorted(_FIT_VARIABLES & spec.environment.keys())
    if overriding:
        yield f"the fit check ignores {', '.join(overriding)} from the environment; the container obeys them"


def _spec_warnings(spec: DeploySpec, requests: Requests) -> Iterator[str]:
    yield from requests.violations()
    yield from environment_warnings(requests.model["PrimaryContainer"]["Environment"])
    if not ImageName.parse(spec.image).digest:
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
