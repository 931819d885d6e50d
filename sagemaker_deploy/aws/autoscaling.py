"""Autoscaling by the number of requests in flight, which for generation says more than requests per minute.

The high-resolution metric is published every 10 s. It counts a request until its last token, also while it is queued in
the container. Source: SageMaker's predefined metrics for Application Auto Scaling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.waiting import describe_endpoint
from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.requests import VARIANT, Request, component_name
from sagemaker_deploy.request.spec import ENDPOINT_TAG

NAMESPACE = "sagemaker"


@dataclass(frozen=True, kw_only=True)
class ScalingOptions:
    """`minimum` to `maximum` instances (or copies), with a target of `concurrency` requests in flight on each.

    Scale-in kills streams that run longer than 30 s after SIGTERM. So it is slow (`scale_in_cooldown_s`), and `protect`
    disables it. Raises `SpecError` for values out of range.
    """

    minimum: int
    maximum: int
    concurrency: float
    scale_in_cooldown_s: int = 600
    scale_out_cooldown_s: int = 60
    protect: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.maximum < 1:
            raise SpecError(f"scaling needs 0 <= minimum <= maximum, got {self.minimum} and {self.maximum}")
        if self.concurrency <= 0:
            raise SpecError(f"scaling concurrency must be above 0, got {self.concurrency}")


@dataclass(frozen=True)
class ScalingTarget:
    """What is scaled: instances of a variant, or copies of an inference component."""

    endpoint: str
    is_component: bool

    @property
    def resource_id(self) -> str:
        if self.is_component:
            return f"inference-component/{component_name(self.endpoint)}"
        return f"endpoint/{self.endpoint}/variant/{VARIANT}"

    @property
    def dimension(self) -> str:
        if self.is_component:
            return "sagemaker:inference-component:DesiredCopyCount"
        return "sagemaker:variant:DesiredInstanceCount"

    @property
    def metric(self) -> str:
        if self.is_component:
            return "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution"
        return "SageMakerVariantConcurrentRequestsPerModelHighResolution"

    def ids(self) -> dict[str, str]:
        """Return the three fields that identify the target in every Application Auto Scaling call."""
        return {
            "ServiceNamespace": NAMESPACE,
            "ResourceId": self.resource_id,
            "ScalableDimension": self.dimension,
        }


def autoscale(
    endpoint: str,
    options: ScalingOptions,
    clients: Clients,
    *,
    component: bool = False,
    asynchronous: bool = False,
) -> list[str]:
    """Register the target and its policies; return the policies' names. A repeated call replaces them.

    Only copies of an inference component and instances of an asynchronous endpoint can scale to zero. Both need a
    second policy, because at zero there is no concurrency to track. Raises `SpecError` for a minimum of zero otherwise.
    """
    if component and asynchronous:
        raise SpecError("an asynchronous endpoint has no inference component; scale it as one of the two")
    if options.minimum == 0 and not component and not asynchronous:
        raise SpecError(
            "a real-time endpoint without an inference component cannot scale to zero",
            remedy="deploy it with --component-memory (inference component), or as asynchronous",
        )
    _check_kind(endpoint, clients, component=component, asynchronous=asynchronous)
    target = ScalingTarget(endpoint, component)
    scaling = clients["application-autoscaling"]
    scaling.register_scalable_target(**registration(target, options))
    policies = [tracking_policy(target, options, asynchronous)]
    if options.minimum == 0:
        policies.append(wake_policy(target, options))
    for policy in policies:
        arn = scaling.put_scaling_policy(**policy)["PolicyARN"]
    if options.minimum == 0:
        clients["cloudwatch"].put_metric_alarm(**wake_alarm(target, arn))
    return [policy["PolicyName"] for policy in policies]


def _check_kind(endpoint: str, clients: Clients, *, component: bool, asynchronous: bool) -> None:
    """Raise `SpecError` if the endpoint is of another kind: its metric would never appear, and nothing would scale."""
    found = describe_endpoint(clients, endpoint)
    if found is None:
        raise SpecError(f"there is no endpoint {endpoint}")
    config = clients.sagemaker.describe_endpoint_config(EndpointConfigName=found["EndpointConfigName"])
    kinds = {
        "asynchronous": ("AsyncInferenceConfig" in config, asynchronous),
        "of an inference component": (not config["ProductionVariants"][0].get("ModelName"), component),
    }
    for kind, (is_so, said) in kinds.items():
        if is_so != said:
            raise SpecError(f"endpoint {endpoint} is {'' if is_so else 'not '}{kind}: scale it as what it is")


def registration(target: ScalingTarget, options: ScalingOptions) -> Request:
    """Return the RegisterScalableTarget request."""
    return {**target.ids(), "MinCapacity": options.minimum, "MaxCapacity": options.maximum}


def tracking_policy(target: ScalingTarget, options: ScalingOptions, asynchronous: bool = False) -> Request:
    """Return the policy that tracks requests in flight or, for an asynchronous endpoint, its backlog."""
    tracking: Request = {
        "TargetValue": options.concurrency,
        "ScaleInCooldown": options.scale_in_cooldown_s,
        "ScaleOutCooldown": options.scale_out_cooldown_s,
        "DisableScaleIn": options.protect,
    }
    if asynchronous:
        tracking["CustomizedMetricSpecification"] = {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": target.endpoint}],
            "Statistic": "Average",
        }
    else:
        tracking["PredefinedMetricSpecification"] = {"PredefinedMetricType": target.metric}
    return {
        **target.ids(),
        "PolicyName": f"{target.endpoint}-in-flight",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": tracking,
    }


def wake_policy(target: ScalingTarget, options: ScalingOptions) -> Request:
    """Return the policy that scales from zero to one."""
    step = {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}
    return {
        **target.ids(),
        "PolicyName": f"{target.endpoint}-wake",
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": {
            "AdjustmentType": "ChangeInCapacity",
            "MetricAggregationType": "Maximum",
            "Cooldown": options.scale_out_cooldown_s,
            "StepAdjustments": [step],
        },
    }


def wake_alarm(target: ScalingTarget, policy_arn: str) -> Request:
    """Return the alarm that triggers the wake policy: a call without a copy, or a backlog without an instance."""
    metric, dimension = "HasBacklogWithoutCapacity", {"Name": "EndpointName", "Value": target.endpoint}
    if target.is_component:
        metric = "NoCapacityInvocationFailures"
        dimension = {"Name": "InferenceComponentName", "Value": component_name(target.endpoint)}
    return {
        "AlarmName": wake_alarm_name(target.endpoint),
        "AlarmActions": [policy_arn],
        "Namespace": "AWS/SageMaker",
        "MetricName": metric,
        "Dimensions": [dimension],
        "Statistic": "Maximum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
        "Tags": [{"Key": ENDPOINT_TAG, "Value": target.endpoint}],
    }


def wake_alarm_name(endpoint: str) -> str:
    """Return the name of the alarm that scales an endpoint from zero."""
    return f"{endpoint}-wake"


def remove_scaling(endpoint: str, clients: Clients) -> Iterator[str]:
    """Deregister the endpoint's targets (AWS deletes their policies too) and the wake alarm; yield what existed."""
    scaling = clients["application-autoscaling"]
    for target in scalable_targets(endpoint, clients):
        ids = {key: target[key] for key in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
        scaling.deregister_scalable_target(**ids)
        yield str(target["ResourceId"])
    alarm = wake_alarm_name(endpoint)
    if clients["cloudwatch"].describe_alarms(AlarmNames=[alarm])["MetricAlarms"]:
        clients["cloudwatch"].delete_alarms(AlarmNames=[alarm])
        yield alarm


def scalable_targets(endpoint: str, clients: Clients) -> list[dict[str, Any]]:
    """Return the registered targets of the endpoint's variant and of its inference component."""
    ids = [ScalingTarget(endpoint, is_component).resource_id for is_component in (False, True)]
    reply = clients["application-autoscaling"].describe_scalable_targets(ServiceNamespace=NAMESPACE, ResourceIds=ids)
    return list(reply["ScalableTargets"])
