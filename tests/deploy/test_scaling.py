"""Scaling on moto where it can, on a scripted service where it cannot; every request by the services' own models."""

from __future__ import annotations

from typing import Any

import pytest

from sagemaker_deploy.aws.autoscaling import (
    ScalingOptions,
    ScalingTarget,
    autoscale,
    registration,
    tracking_policy,
    wake_alarm,
    wake_policy,
)
from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.removal import delete
from sagemaker_deploy.deployment import DeployOptions, deploy
from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.progress import Silent
from sagemaker_deploy.request.requests import build_requests
from sagemaker_deploy.request.service_model import violations
from tests.deploy.cases import CASES
from tests.deploy.conftest import REGION, make_spec
from tests.deploy.stubs import NOW, Script

TO_ZERO = ScalingOptions(minimum=0, maximum=2, concurrency=8)
ARN = "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:0:policyName/llm-wake"


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_request_is_valid(component: bool, asynchronous: bool) -> None:
    target = ScalingTarget("llm", component)
    service = "application-autoscaling"
    for policy in (tracking_policy(target, TO_ZERO, asynchronous), wake_policy(target, TO_ZERO)):
        assert violations(service, "PutScalingPolicy", policy) == []
    assert violations(service, "RegisterScalableTarget", registration(target, TO_ZERO)) == []
    assert violations("cloudwatch", "PutMetricAlarm", wake_alarm(target, ARN)) == []


def test_an_endpoint_follows_its_requests_in_flight_and_may_be_protected(clients: Clients) -> None:
    deploy(make_spec(), clients, DeployOptions(way="boto3", preflight=False))
    options = ScalingOptions(minimum=1, maximum=4, concurrency=6, protect=True)
    assert autoscale("llm", options, clients) == autoscale("llm", options, clients) == ["llm-in-flight"]
    policies = clients["application-autoscaling"].describe_scaling_policies(ServiceNamespace="sagemaker")
    (policy,) = policies["ScalingPolicies"]
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    metric = tracking["PredefinedMetricSpecification"]["PredefinedMetricType"]
    assert metric == "SageMakerVariantConcurrentRequestsPerModelHighResolution"
    assert tracking["TargetValue"] == 6
    assert tracking["DisableScaleIn"] is True


def test_an_asynchronous_endpoint_sleeps_and_wakes_by_its_backlog(clients: Clients) -> None:
    deploy(CASES["async"], clients, DeployOptions(way="boto3", preflight=False))
    assert autoscale("llm", TO_ZERO, clients, asynchronous=True) == ["llm-in-flight", "llm-wake"]
    (alarm,) = clients["cloudwatch"].describe_alarms(AlarmNames=["llm-wake"])["MetricAlarms"]
    assert alarm["MetricName"] == "HasBacklogWithoutCapacity"
    assert "llm-wake" in alarm["AlarmActions"][0]
    assert delete("llm", clients, Silent())[:2] == ["endpoint/llm/variant/AllTraffic", "llm-wake"]
    assert clients["cloudwatch"].describe_alarms()["MetricAlarms"] == []


def test_a_component_scales_to_zero_copies(clients: Clients) -> None:
    """moto knows no inference components, so Application Auto Scaling is scripted."""
    target = ScalingTarget("llm", True)
    script = Script("application-autoscaling")
    script.answer("register_scalable_target", {}, registration(target, TO_ZERO))
    for policy in (tracking_policy(target, TO_ZERO), wake_policy(target, TO_ZERO)):
        script.answer("put_scaling_policy", {"PolicyARN": ARN}, policy)
    others = {
        "application-autoscaling": script.client,
        "cloudwatch": clients["cloudwatch"],
        "sagemaker": hosting("component-to-zero").client,
    }
    assert len(autoscale("llm", TO_ZERO, Clients(clients.session, overrides=others), component=True)) == 2
    script.finished()
    (alarm,) = clients["cloudwatch"].describe_alarms(AlarmNames=["llm-wake"])["MetricAlarms"]
    assert alarm["MetricName"] == "NoCapacityInvocationFailures"
    assert alarm["Dimensions"] == [{"Name": "InferenceComponentName", "Value": "llm-model"}]
    assert alarm["AlarmActions"] == [ARN]


def hosting(case: str) -> Script:
    """SageMaker with the endpoint of a case."""
    config = build_requests(CASES[case], REGION).endpoint_config
    shown = {key: value for key, value in config.items() if key != "Tags"}
    script = Script("sagemaker").endpoint("InService", config["EndpointConfigName"])
    return script.answer("describe_endpoint_config", {**shown, "EndpointConfigArn": ARN, "CreationTime": NOW})


@pytest.mark.parametrize(
    ("case", "said", "says"),
    [
        ("single-gpu", {"asynchronous": True}, "endpoint llm is not asynchronous"),
        ("single-gpu", {"component": True}, "endpoint llm is not of an inference component"),
        ("async", {}, "endpoint llm is asynchronous"),
        ("component-to-zero", {}, "endpoint llm is of an inference component"),
    ],
)
def test_an_endpoint_of_another_kind_is_not_scaled(case: str, said: dict[str, bool], says: str) -> None:
    """Its metric would never appear."""
    clients = Clients(region=REGION, overrides={"sagemaker": hosting(case).client})
    with pytest.raises(SpecError, match=says):
        autoscale("llm", ScalingOptions(minimum=1, maximum=2, concurrency=8), clients, **said)


def test_only_what_exists_is_scaled(clients: Clients) -> None:
    with pytest.raises(SpecError, match="there is no endpoint llm"):
        autoscale("llm", ScalingOptions(minimum=1, maximum=2, concurrency=8), clients)


def test_zero_is_refused_where_it_cannot_be(clients: Clients) -> None:
    with pytest.raises(SpecError, match="cannot scale to zero") as caught:
        autoscale("llm", TO_ZERO, clients)
    assert "--component-memory" in caught.value.remedy


@pytest.mark.parametrize("change", [{"minimum": 3}, {"maximum": 0, "minimum": 0}, {"concurrency": 0}])
def test_options_are_bounded(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="scaling"):
        ScalingOptions(**{"minimum": 1, "maximum": 2, "concurrency": 8, **change})
