"""What the container wrote last, and what `status` makes of a failure."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.logs import last_lines, log_groups
from sagemaker_deploy.aws.status import endpoint_status
from sagemaker_deploy.errors import PreflightError
from tests.deploy.stubs import ARN, NOW, Script

ENDPOINT_GROUP, COMPONENT_GROUP = log_groups("llm")


# One for all streams, whose lines are put in order.
NOW_MS = int(time.time() * 1000)


def write(logs: Any, group: str, stream: str, *lines: tuple[int, str]) -> None:
    """`lines` are (seconds from NOW_MS, text)."""
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    events = [{"timestamp": NOW_MS + 1000 * age, "message": text} for age, text in lines]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


@pytest.fixture
def logs(clients: Clients) -> Any:
    for group in (ENDPOINT_GROUP, COMPONENT_GROUP):
        clients["logs"].create_log_group(logGroupName=group)
    return clients["logs"]


def test_lines_of_all_instances_come_in_the_order_of_time(logs: Any) -> None:
    write(logs, ENDPOINT_GROUP, "AllTraffic/i-1", (-9, "one\n"), (-7, "three"))
    write(logs, ENDPOINT_GROUP, "AllTraffic/i-2", (-8, "two"), (-6, "four"))
    assert [line.text for line in last_lines(logs, "llm")] == ["one", "two", "three", "four"]
    assert [(line.stream, line.text) for line in last_lines(logs, "llm", 1)] == [("AllTraffic/i-2", "four")]


def test_a_components_lines_are_found_too(logs: Any) -> None:
    write(logs, COMPONENT_GROUP, "AllTraffic/i-1", (-5, "of the component"))
    assert [line.text for line in last_lines(logs, "llm")] == ["of the component"]


def test_the_platforms_own_stream_of_an_asynchronous_endpoint_is_left_out(logs: Any) -> None:
    write(logs, ENDPOINT_GROUP, "AllTraffic/i-1", (-5, "ours"))
    write(logs, ENDPOINT_GROUP, "AllTraffic/i-1/data-log", (-4, "the platform's"))
    assert [line.text for line in last_lines(logs, "llm")] == ["ours"]


def test_a_container_that_wrote_nothing_has_no_lines(clients: Clients) -> None:
    assert last_lines(clients["logs"], "llm") == []


def test_a_log_that_may_not_be_read_is_said() -> None:
    script = Script("logs").refuse("describe_log_streams", "AccessDeniedException", "not authorized")
    with pytest.raises(PreflightError, match=r"logs could not be read.*not authorized"):
        last_lines(script.client, "llm")


def test_status_explains_a_failure_of_the_endpoint(clients: Clients) -> None:
    reason = "CapacityError: Unable to provision requested ML compute capacity"
    script = Script("sagemaker").endpoint("Failed", "llm-1", FailureReason=reason)
    script.answer("describe_endpoint_config", config(ModelName="llm-1"))
    others = {"sagemaker": script.client, "application-autoscaling": clients["application-autoscaling"]}
    summary = endpoint_status("llm", Clients(clients.session, overrides=others))
    script.finished()
    assert (summary["status"], summary["failure"]) == ("Failed", reason)
    assert "no free instance" in summary["cause"]
    assert "component" not in summary


def test_status_shows_the_component_and_why_it_failed(clients: Clients) -> None:
    script = Script("sagemaker").endpoint("InService", "llm-1").answer("describe_endpoint_config", config())
    component = {
        "InferenceComponentName": "llm-model",
        "InferenceComponentArn": ARN,
        "InferenceComponentStatus": "Failed",
        "FailureReason": "CUDA out of memory",
        "RuntimeConfig": {"DesiredCopyCount": 1, "CurrentCopyCount": 0},
    }
    described = component | {"EndpointName": "llm", "EndpointArn": ARN, "CreationTime": NOW, "LastModifiedTime": NOW}
    script.answer("describe_inference_component", described, {"InferenceComponentName": "llm-model"})
    others = {"sagemaker": script.client, "application-autoscaling": clients["application-autoscaling"]}
    summary = endpoint_status("llm", Clients(clients.session, overrides=others))["component"]
    script.finished()
    assert (summary["status"], summary["copies"], summary["wanted"]) == ("Failed", 0, 1)
    assert summary["cause"] == "the model does not fit the GPU"


def config(**variant: str) -> dict[str, Any]:
    """A DescribeEndpointConfig; a variant without a model is one for components."""
    variants = [{"VariantName": "AllTraffic", **variant}]
    names = {"EndpointConfigName": "llm-1", "EndpointConfigArn": ARN}
    return {**names, "ProductionVariants": variants, "CreationTime": NOW}
