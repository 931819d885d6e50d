"""How an update replaces instances, and the alarm that rolls it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.requests import VARIANT, Request
from sagemaker_deploy.request.spec import ENDPOINT_TAG

EXECUTION_LIMIT_S = 28800


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """`blue-green` temporarily doubles the fleet; `rolling` replaces `batch_percent` of it at a time.

    `bake_s` is the time in seconds that new instances are watched before old ones are removed. Raises `SpecError` for
    values out of range; the limits are SageMaker's.
    """

    strategy: Literal["blue-green", "rolling"] = "blue-green"
    bake_s: int = 300
    batch_percent: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.bake_s <= 3600:
            raise SpecError(f"bake_s must be 0 to 3600, got {self.bake_s}")
        if not 5 <= self.batch_percent <= 50:
            raise SpecError(f"batch_percent must be 5 to 50, got {self.batch_percent}")


def alarm_name(endpoint_name: str) -> str:
    """Return the name of the alarm that guards updates of an endpoint."""
    return f"{endpoint_name}-5xx"


def rollback_alarm(endpoint_name: str) -> Request:
    """Return the PutMetricAlarm request: fires on any minute with a 5xx answer from the container."""
    return {
        "AlarmName": alarm_name(endpoint_name),
        "AlarmDescription": "Rolls back an update of the endpoint if its container answers 5xx",
        "Namespace": "AWS/SageMaker",
        "MetricName": "Invocation5XXErrors",
        "Dimensions": [
            {"Name": "EndpointName", "Value": endpoint_name},
            {"Name": "VariantName", "Value": VARIANT},
        ],
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
        "Tags": [{"Key": ENDPOINT_TAG, "Value": endpoint_name}],
    }


def set_rollback_alarm(endpoint_name: str, clients: Clients) -> None:
    """Create the alarm, or replace it."""
    clients["cloudwatch"].put_metric_alarm(**rollback_alarm(endpoint_name))


def deployment_config(options: UpdateOptions, endpoint_name: str) -> Request:
    """Return the DeploymentConfig of an UpdateEndpoint request."""
    rollback = {"Alarms": [{"AlarmName": alarm_name(endpoint_name)}]}
    return {**_policy(options), "AutoRollbackConfiguration": rollback}


def _policy(options: UpdateOptions) -> Mapping[str, Any]:
    if options.strategy == "rolling":
        batch = {"Type": "CAPACITY_PERCENT", "Value": options.batch_percent}
        rolling = {"MaximumBatchSize": batch, "WaitIntervalInSeconds": options.bake_s}
        return {"RollingUpdatePolicy": rolling | {"MaximumExecutionTimeoutInSeconds": EXECUTION_LIMIT_S}}
    routing = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": options.bake_s}
    blue_green = {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": 60}
    return {"BlueGreenUpdatePolicy": blue_green | {"MaximumExecutionTimeoutInSeconds": EXECUTION_LIMIT_S}}
