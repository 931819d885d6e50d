"""From a specification to an endpoint, on moto's server: made, made again, changed, failed, removed."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.removal import delete
from sagemaker_deploy.deployment import DeployOptions, deploy
from sagemaker_deploy.errors import EndpointFailed, PreflightError, SpecError, WaitExpired
from sagemaker_deploy.request.requests import build_requests
from sagemaker_deploy.request.spec import ENDPOINT_TAG, DeploySpec
from tests.deploy.conftest import NEEDS_SDK_2, REGION, ROLE, FastClock, make_spec
from tests.deploy.stubs import Script, recorder
from tests.deploy.transcript import Transcript

BOTO3 = DeployOptions(way="boto3", preflight=False)
SDK = DeployOptions(way="sdk", preflight=False)
WAYS = [
    pytest.param(BOTO3, id="boto3"),
    pytest.param(SDK, id="sdk", marks=NEEDS_SDK_2),
]
PING = "The primary container for production variant AllTraffic did not pass the ping health check."


def names(clients: Clients) -> tuple[list[str], list[str], list[str]]:
    sagemaker = clients.sagemaker
    return (
        [it["EndpointName"] for it in sagemaker.list_endpoints()["Endpoints"]],
        [it["EndpointConfigName"] for it in sagemaker.list_endpoint_configs()["EndpointConfigs"]],
        [it["ModelName"] for it in sagemaker.list_models()["Models"]],
    )


def make_endpoints_fail(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """moto's endpoints are in service at once; these are not, ever."""
    from moto.sagemaker.models import FakeEndpoint

    create = FakeEndpoint.__init__

    def create_failed(self: Any, *args: Any, **kwargs: Any) -> None:
        create(self, *args, **kwargs)
        self.endpoint_status = "Failed"
        self.failure_reason = reason

    monkeypatch.setattr(FakeEndpoint, "__init__", create_failed)


def put_log(clients: Clients, *lines: str) -> None:
    logs = clients["logs"]
    group = "/aws/sagemaker/Endpoints/llm"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="AllTraffic/i-0")
    now_ms = int(time.time() * 1000)
    events = [{"timestamp": now_ms + i, "message": line} for i, line in enumerate(lines)]
    logs.put_log_events(logGroupName=group, logStreamName="AllTraffic/i-0", logEvents=events)


@pytest.mark.parametrize("options", WAYS)
def test_an_endpoint_is_made_tagged_and_in_service(options: DeployOptions, clients: Clients) -> None:
    done = deploy(make_spec(tags={"team": "search"}), clients, options)
    endpoint = clients.sagemaker.describe_endpoint(EndpointName="llm")
    assert endpoint["EndpointStatus"] == "InService"
    assert endpoint["EndpointConfigName"] == done.requests.config_name
    assert names(clients) == (["llm"], [done.requests.config_name], [done.requests.model_name])
    tags = clients.sagemaker.list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"]
    assert {"Key": ENDPOINT_TAG, "Value": "llm"} in tags
    assert {"Key": "team", "Value": "search"} in tags


@pytest.mark.parametrize("options", WAYS)
def test_doing_it_again_changes_nothing(options: DeployOptions, clients: Clients, transcript: Transcript) -> None:
    deploy(make_spec(), clients, options)
    before = names(clients)
    seen = recorder(clients.sagemaker)
    deploy(make_spec(), clients, options, progress=transcript)
    assert {name for name, _ in seen} == {"DescribeEndpoint", "ListTags"}
    assert names(clients) == before
    assert ("step", "endpoint llm already serves this specification") in transcript.events


@pytest.mark.parametrize("options", WAYS)
def test_an_interrupted_run_is_finished_by_the_next(options: DeployOptions, clients: Clients) -> None:
    requests = build_requests(make_spec(), REGION)
    clients.sagemaker.create_model(**requests.model)
    clients.sagemaker.create_endpoint_config(**requests.endpoint_config)
    deploy(make_spec(), clients, options)
    assert names(clients) == (["llm"], [requests.config_name], [requests.model_name])


@pytest.mark.parametrize("options", WAYS)
def test_a_failure_shows_log_cause_and_remedy_and_cleans_up(
    options: DeployOptions, clients: Clients, clock: FastClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_endpoints_fail(monkeypatch, PING)
    put_log(clients, "loading", "RuntimeError: CUDA out of memory")
    with pytest.raises(EndpointFailed, match="the model does not fit the GPU") as caught:
        deploy(make_spec(), clients, options, clock=clock)
    assert PING.rstrip(".") in str(caught.value)
    assert caught.value.log_lines == ("loading", "RuntimeError: CUDA out of memory")
    assert "use a larger instance" in caught.value.remedy
    assert names(clients) == ([], [], [])


@pytest.mark.parametrize("options", WAYS)
def test_a_refused_endpoint_leaves_no_model_and_no_configuration(
    options: DeployOptions, clients: Clients, transcript: Transcript
) -> None:
    def refuse(**_: Any) -> None:
        detail = {"Code": "ResourceLimitExceeded", "Message": "The account-level service limit is 0 Instances"}
        raise ClientError({"Error": detail}, "CreateEndpoint")

    clients.sagemaker.meta.events.register("provide-client-params.sagemaker.CreateEndpoint", refuse)
    with pytest.raises(PreflightError, match="quota"):
        deploy(make_spec(), clients, options, progress=transcript)
    assert names(clients) == ([], [], [])
    with pytest.raises(PreflightError, match="quota"):
        deploy(make_spec(), clients, dataclasses.replace(options, keep=True))
    assert [len(found) for found in names(clients)] == [0, 1, 1]


def test_a_failure_is_kept_when_asked(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    make_endpoints_fail(monkeypatch, PING)
    with pytest.raises(EndpointFailed, match="GET /ping"):
        deploy(make_spec(), clients, DeployOptions(way="boto3", preflight=False, keep=True))
    assert names(clients)[0] == ["llm"]


def test_a_failed_endpoint_of_before_is_made_anew(
    clients: Clients, transcript: Transcript, backend: Any, clock: FastClock
) -> None:
    deploy(make_spec(), clients, BOTO3)
    backend.endpoints["llm"].endpoint_status = "Failed"
    deploy(make_spec(), clients, BOTO3, progress=transcript, clock=clock)
    assert clients.sagemaker.describe_endpoint(EndpointName="llm")["EndpointStatus"] == "InService"
    assert any("had failed and is created again" in text for kind, text in transcript.events if kind == "warn")


def test_a_run_meets_another_that_is_under_way(clients: Clients, backend: Any, clock: FastClock) -> None:
    deploy(make_spec(), clients, BOTO3)
    backend.endpoints["llm"].endpoint_status = "Creating"

    def finish(now_s: float) -> None:
        backend.endpoints["llm"].endpoint_status = "InService" if now_s > 60 else "Creating"

    clock.on_sleep = finish
    deploy(make_spec(), clients, BOTO3, clock=clock)
    assert clock.now_s() > 60


def test_the_wait_is_bounded_and_shows_the_last_log_line(
    clients: Clients, transcript: Transcript, backend: Any, clock: FastClock
) -> None:
    deploy(make_spec(), clients, BOTO3)
    put_log(clients, "loading shard 3 of 4")
    backend.endpoints["llm"].endpoint_status = "Updating"
    options = DeployOptions(way="boto3", preflight=False, wait_s=100)
    with pytest.raises(WaitExpired, match="still Updating after 105 s") as caught:
        deploy(make_spec(), clients, options, progress=transcript, clock=clock)
    assert "nothing was removed" in caught.value.remedy
    assert names(clients)[0] == ["llm"]
    assert ("status", "endpoint llm: Updating, 15 s | loading shard 3 of 4") in transcript.events


def test_without_waiting_it_returns_at_once(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    make_endpoints_fail(monkeypatch, "later")
    deploy(make_spec(), clients, DeployOptions(way="boto3", preflight=False, wait=False))
    assert names(clients)[0] == ["llm"]


def test_somebody_elses_endpoint_is_left_alone(clients: Clients) -> None:
    requests = build_requests(make_spec(), REGION)
    clients.sagemaker.create_model(**requests.model)
    clients.sagemaker.create_endpoint_config(**requests.endpoint_config)
    clients.sagemaker.create_endpoint(EndpointName="llm", EndpointConfigName=requests.config_name)
    with pytest.raises(PreflightError, match="was not made by this helper"):
        deploy(make_spec(), clients, BOTO3)


def test_another_specification_needs_the_word_update(clients: Clients) -> None:
    deploy(make_spec(), clients, BOTO3)
    with pytest.raises(PreflightError, match="serves another configuration") as caught:
        deploy(make_spec(instance_count=2), clients, BOTO3)
    assert "--update" in caught.value.remedy


def test_what_sagemaker_would_refuse_is_refused_before(clients: Clients) -> None:
    with pytest.raises(SpecError, match="InstanceType"):
        deploy(make_spec(instance_type="ml.none"), clients, BOTO3)
    assert names(clients) == ([], [], [])


def test_secrets_are_warned_of_before_they_are_sent(clients: Clients, transcript: Transcript) -> None:
    deploy(make_spec(hf_token="hf_x"), clients, BOTO3, progress=transcript)
    warning = next(i for i, (kind, text) in enumerate(transcript.events) if "HF_TOKEN will be stored" in text)
    made = next(i for i, (kind, text) in enumerate(transcript.events) if text.endswith("created"))
    assert transcript.events[warning][0] == "warn"
    assert warning < made


def test_the_sdk_is_refused_where_it_cannot_do_the_job(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.27.0")
    with pytest.raises(PreflightError, match="needs SageMaker SDK version 2"):
        deploy(make_spec(), clients, SDK)


def test_with_sdk_3_it_goes_through_boto3_and_gives_the_own_client(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.27.0")
    done = deploy(make_spec(), clients, DeployOptions(preflight=False))
    assert type(done.predictor).__name__ == "EndpointClient"


def test_a_new_role_is_waited_for(clients: Clients, clock: FastClock) -> None:
    requests = build_requests(make_spec(), REGION)
    script = Script("sagemaker")
    script.missing("describe_endpoint")
    for _ in range(2):
        script.refuse("create_model", "ValidationException", f"Could not assume role {ROLE}. Please ensure …")
    script.answer("create_model", {"ModelArn": "arn:aws:sagemaker:us-east-1:123456789012:model/llm"}, requests.model)
    script.answer("create_endpoint_config", {"EndpointConfigArn": "arn:aws:sagemaker:us-east-1:123456789012:ec/llm"})
    script.answer("create_endpoint", {"EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/llm"})
    options = DeployOptions(way="boto3", preflight=False, wait=False)
    deploy(make_spec(), Clients(region=REGION, overrides={"sagemaker": script.client}), options, clock=clock)
    script.finished()
    assert clock.now_s() == 16


@pytest.mark.parametrize(
    ("operation", "code", "message", "says"),
    [
        ("create_model", "ValidationException", "Could not assume role x", "may not assume the execution role"),
        (
            "create_model",
            "ValidationException",
            "Unsupported manifest media type application/vnd.oci.image.index.v1+json for image …",
            "OCI manifest",
        ),
        (
            "create_model",
            "ValidationException",
            "Your Ecr Image … does not contain required …accept-bind-to-port=true Docker label(s)",
            "another port",
        ),
        (
            "create_endpoint",
            "ResourceLimitExceeded",
            "The account-level service limit 'ml.g6.2xlarge for endpoint usage' is 0 Instances",
            "quota",
        ),
        (
            "create_model",
            "AccessDeniedException",
            "User is not authorized to perform: iam:PassRole on …",
            "may not pass it",
        ),
        ("create_model", "ValidationException", "Something new", "Something new"),
    ],
)
def test_a_refusal_is_explained(operation: str, code: str, message: str, says: str, clock: FastClock) -> None:
    script = Script("sagemaker").missing("describe_endpoint")
    if operation == "create_endpoint":
        script.answer("create_model", {"ModelArn": "arn:aws:sagemaker:us-east-1:123456789012:model/llm"})
        script.answer("create_endpoint_config", {"EndpointConfigArn": "arn:aws:sagemaker:us-east-1:123456789012:e/l"})
    for _ in range(8 if "assume role" in message else 1):
        script.refuse(operation, code, message)
    if operation == "create_endpoint":
        script.answer("delete_endpoint_config", {}).answer("delete_model", {})
    with pytest.raises(PreflightError, match=says):
        deploy(make_spec(), Clients(region=REGION, overrides={"sagemaker": script.client}), BOTO3, clock=clock)
    script.finished()


def test_delete_removes_everything_and_repeats(clients: Clients, transcript: Transcript) -> None:
    done = deploy(make_spec(), clients, BOTO3)
    other = deploy(make_spec(name="llm-2"), clients, BOTO3)
    removed = delete("llm", clients, transcript)
    assert removed == ["llm", done.requests.config_name, done.requests.model_name]
    assert names(clients) == (["llm-2"], [other.requests.config_name], [other.requests.model_name])
    assert delete("llm", clients, transcript) == []


def test_delete_finishes_what_was_begun(clients: Clients, transcript: Transcript) -> None:
    done = deploy(make_spec(), clients, BOTO3)
    clients.sagemaker.delete_endpoint(EndpointName="llm")
    assert delete("llm", clients, transcript) == [done.requests.config_name, done.requests.model_name]


def test_delete_touches_nothing_without_the_tag(clients: Clients, transcript: Transcript) -> None:
    spec: DeploySpec = make_spec()
    requests = build_requests(spec, REGION)
    for create, body in (
        (clients.sagemaker.create_model, requests.model),
        (clients.sagemaker.create_endpoint_config, requests.endpoint_config),
        (clients.sagemaker.create_endpoint, requests.endpoint),
    ):
        create(**{key: value for key, value in body.items() if key != "Tags"})
    assert delete("llm", clients, transcript) == []
    assert names(clients)[0] == ["llm"]
    assert any("was not made by this helper" in text for _, text in transcript.events)
