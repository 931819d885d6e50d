"""Updates with rollback and inference components, which moto lacks: a scripted SageMaker, checked by Stubber."""

from __future__ import annotations

from typing import Any

import pytest

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.removal import delete
from sagemaker_deploy.aws.rollback import UpdateOptions, alarm_name, deployment_config, rollback_alarm
from sagemaker_deploy.deployment import DeployOptions, deploy
from sagemaker_deploy.errors import DeployError, EndpointFailed, PreflightError, RolledBack, SpecError
from sagemaker_deploy.request.requests import Requests, build_requests
from sagemaker_deploy.request.service_model import violations
from tests.deploy.cases import CASES
from tests.deploy.conftest import REGION, FastClock, make_spec
from tests.deploy.stubs import ARN, NOW, OURS, Script
from tests.deploy.transcript import Transcript

OPTIONS = DeployOptions(way="boto3", preflight=False, update=UpdateOptions())
COMPONENT_ARN = "arn:aws:sagemaker:us-east-1:123456789012:inference-component/llm-model"


def with_script(clients: Clients, script: Script) -> Clients:
    """SageMaker from the script, everything else from moto."""
    others = {name: clients[name] for name in ("cloudwatch", "logs", "application-autoscaling")}
    return Clients(clients.session, overrides={**others, "sagemaker": script.client})


def started(requests: Requests) -> Script:
    """A script up to the accepted update."""
    script = Script("sagemaker").endpoint("InService", "llm-old").answer("list_tags", OURS)
    script.answer("create_model", {"ModelArn": ARN}, requests.model)
    script.answer("create_endpoint_config", {"EndpointConfigArn": ARN}, requests.endpoint_config)
    expected = {
        "EndpointName": "llm",
        "EndpointConfigName": requests.config_name,
        "DeploymentConfig": deployment_config(UpdateOptions(), "llm"),
    }
    return script.answer("update_endpoint", {"EndpointArn": ARN}, expected)


@pytest.mark.parametrize("options", [UpdateOptions(), UpdateOptions(strategy="rolling", batch_percent=25)])
def test_an_updates_requests_are_valid(options: UpdateOptions) -> None:
    update = {
        "EndpointName": "llm",
        "EndpointConfigName": "llm-1",
        "DeploymentConfig": deployment_config(options, "llm"),
    }
    assert violations("sagemaker", "UpdateEndpoint", update) == []
    assert violations("cloudwatch", "PutMetricAlarm", rollback_alarm("llm")) == []
    policy = "RollingUpdatePolicy" if options.strategy == "rolling" else "BlueGreenUpdatePolicy"
    assert policy in update["DeploymentConfig"]
    assert update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"] == [{"AlarmName": alarm_name("llm")}]


@pytest.mark.parametrize("change", [{"bake_s": 3601}, {"batch_percent": 51}, {"batch_percent": 4}])
def test_update_options_are_bounded(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(change))):
        UpdateOptions(**change)


def test_an_update_arrives(clients: Clients, clock: FastClock, transcript: Transcript) -> None:
    requests = build_requests(make_spec(instance_count=2), REGION)
    script = started(requests).endpoint("Updating", "llm-old").endpoint("InService", requests.config_name)
    deploy(make_spec(instance_count=2), with_script(clients, script), OPTIONS, clock=clock, progress=transcript)
    script.finished()
    assert any("in service with the new configuration" in text for _, text in transcript.events)
    alarms = clients["cloudwatch"].describe_alarms(AlarmNames=[alarm_name("llm")])["MetricAlarms"]
    assert alarms[0]["MetricName"] == "Invocation5XXErrors"


def test_an_update_that_turns_back_says_so_and_leaves_the_old_version(clients: Clients, clock: FastClock) -> None:
    requests = build_requests(make_spec(instance_count=2), REGION)
    script = started(requests)
    script.endpoint("RollingBack", "llm-old")
    script.endpoint("InService", "llm-old", FailureReason="One or more configured alarms was in ALARM state.")
    script.answer("delete_endpoint_config", {}, {"EndpointConfigName": requests.config_name})
    script.answer("delete_model", {}, {"ModelName": requests.model_name})
    with pytest.raises(RolledBack, match="configured alarms was in ALARM"):
        deploy(make_spec(instance_count=2), with_script(clients, script), OPTIONS, clock=clock)
    script.finished()


def test_the_old_model_is_not_discarded_with_a_failed_update_of_hosting(clients: Clients, clock: FastClock) -> None:
    """The model of both configurations is the same one, and the endpoint still serves it."""
    spec = make_spec(instance_count=2)
    assert build_requests(spec, REGION).model_name == build_requests(make_spec(), REGION).model_name
    old = build_requests(make_spec(), REGION)
    requests = build_requests(spec, REGION)
    script = Script("sagemaker").endpoint("InService", old.config_name).answer("list_tags", OURS)
    script.refuse("create_model", "ValidationException", "Cannot create already existing model")
    script.answer("create_endpoint_config", {"EndpointConfigArn": ARN})
    script.answer("update_endpoint", {"EndpointArn": ARN})
    script.endpoint("InService", old.config_name, FailureReason="no capacity")
    script.answer("delete_endpoint_config", {}, {"EndpointConfigName": requests.config_name})
    with pytest.raises(RolledBack):
        deploy(spec, with_script(clients, script), OPTIONS, clock=clock)
    script.finished()


def component(status: str, **more: Any) -> dict[str, Any]:
    return {
        "InferenceComponentName": "llm-model",
        "InferenceComponentArn": COMPONENT_ARN,
        "EndpointName": "llm",
        "EndpointArn": ARN,
        "InferenceComponentStatus": status,
        "CreationTime": NOW,
        "LastModifiedTime": NOW,
        **more,
    }


def placed(requests: Requests, *components: dict[str, Any]) -> Script:
    """A script from nothing to the given descriptions of the component."""
    script = Script("sagemaker").missing("describe_endpoint")
    script.answer("create_model", {"ModelArn": ARN}, requests.model)
    script.answer("create_endpoint_config", {"EndpointConfigArn": ARN}, requests.endpoint_config)
    script.answer("create_endpoint", {"EndpointArn": ARN}, requests.endpoint)
    script.endpoint("Creating", requests.config_name).endpoint("InService", requests.config_name)
    script.missing("describe_inference_component")
    script.answer("create_inference_component", {"InferenceComponentArn": COMPONENT_ARN}, requests.component)
    for description in components:
        script.answer("describe_inference_component", description)
    return script


def test_a_component_is_placed_once_its_endpoint_serves(clients: Clients, clock: FastClock) -> None:
    spec = CASES["component-to-zero"]
    script = placed(build_requests(spec, REGION), component("Creating"), component("InService"))
    done = deploy(spec, with_script(clients, script), OPTIONS, clock=clock)
    script.finished()
    assert done.client._target["InferenceComponentName"] == "llm-model"


def test_a_component_that_fails_is_explained_and_all_is_removed(clients: Clients, clock: FastClock) -> None:
    spec = CASES["component-to-zero"]
    requests = build_requests(spec, REGION)
    script = placed(requests, component("Failed", FailureReason="CapacityError: Unable to provision"))
    scripted_removal(script, requests)
    with pytest.raises(EndpointFailed, match="no free instance of this type"):
        deploy(spec, with_script(clients, script), OPTIONS, clock=clock)
    script.finished()


def scripted_removal(script: Script, requests: Requests) -> None:
    """Component first, then endpoint, configuration, model; each gone before the next."""
    script.endpoint("InService", requests.config_name)
    script.answer(
        "describe_endpoint_config",
        {
            "EndpointConfigName": requests.config_name,
            "EndpointConfigArn": ARN,
            "ProductionVariants": [{"VariantName": "AllTraffic"}],
            "CreationTime": NOW,
        },
    )
    summary = {key: value for key, value in component("InService").items() if key != "InferenceComponentStatus"}
    summary["VariantName"] = "AllTraffic"
    script.answer("list_inference_components", {"InferenceComponents": [summary]}, {"EndpointNameEquals": "llm"})
    script.answer("list_tags", OURS, {"ResourceArn": COMPONENT_ARN})
    script.answer("delete_inference_component", {}, {"InferenceComponentName": "llm-model"})
    script.answer("describe_inference_component", component("Deleting"))
    script.missing("describe_inference_component")
    script.endpoint("InService", requests.config_name).answer("list_tags", OURS)
    script.answer("delete_endpoint", {}, {"EndpointName": "llm"})
    script.endpoint("Deleting", requests.config_name).missing("describe_endpoint")
    configs = [{"EndpointConfigName": requests.config_name, "EndpointConfigArn": ARN, "CreationTime": NOW}]
    script.answer("list_endpoint_configs", {"EndpointConfigs": configs}).answer("list_tags", OURS)
    script.answer("delete_endpoint_config", {}, {"EndpointConfigName": requests.config_name})
    models = [{"ModelName": requests.model_name, "ModelArn": ARN, "CreationTime": NOW}]
    script.answer("list_models", {"Models": models}).answer("list_tags", OURS)
    script.answer("delete_model", {}, {"ModelName": requests.model_name})


def test_delete_goes_from_component_to_model(clients: Clients, clock: FastClock, transcript: Transcript) -> None:
    requests = build_requests(CASES["component-to-zero"], REGION)
    script = Script("sagemaker")
    scripted_removal(script, requests)
    removed = delete("llm", with_script(clients, script), transcript, clock=clock)
    script.finished()
    assert removed == ["llm-model", "llm", requests.config_name, requests.model_name]


def test_components_are_not_updated_in_place(clients: Clients) -> None:
    script = Script("sagemaker").endpoint("InService", "llm-old").answer("list_tags", OURS)
    with pytest.raises(PreflightError, match="not updated in place"):
        deploy(CASES["component-to-zero"], with_script(clients, script), OPTIONS)


def test_an_endpoint_that_disappears_is_a_failure(clients: Clients, clock: FastClock) -> None:
    requests = build_requests(make_spec(), REGION)
    script = Script("sagemaker").missing("describe_endpoint")
    script.answer("create_model", {"ModelArn": ARN}).answer("create_endpoint_config", {"EndpointConfigArn": ARN})
    script.answer("create_endpoint", {"EndpointArn": ARN})
    script.endpoint("Creating", requests.config_name).missing("describe_endpoint")
    options = DeployOptions(way="boto3", preflight=False, keep=True)
    with pytest.raises(DeployError, match="disappeared"):
        deploy(make_spec(), with_script(clients, script), options, clock=clock)
    script.finished()
