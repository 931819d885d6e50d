"""The exact requests: recorded, valid by botocore's model of the API, and the same whichever way they are
sent.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import boto3
import pytest

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.control_plane import ControlPlane
from sagemaker_deploy.aws.removal import delete
from sagemaker_deploy.progress import Silent
from sagemaker_deploy.request.hosting import download_timeout_s, health_check_timeout_s, host_ami_version
from sagemaker_deploy.request.instances import INSTANCES
from sagemaker_deploy.request.requests import build_requests
from sagemaker_deploy.request.service_model import violations
from tests.deploy.cases import CASES
from tests.deploy.conftest import REGION, make_spec, needs_sdk_2
from tests.deploy.stubs import recorder

RECORDED = Path(__file__).parent / "recorded"
CREATING = ("CreateModel", "CreateEndpointConfig", "CreateEndpoint")


@pytest.mark.parametrize("case", CASES)
def test_requests_are_as_recorded(case: str) -> None:
    """`RECORD=1` writes the files anew; their diff is the review."""
    made = build_requests(CASES[case], REGION).by_operation()
    path = RECORDED / f"{case}.json"
    if os.environ.get("RECORD"):
        path.write_text(json.dumps(made, indent=2) + "\n")
    assert made == json.loads(path.read_text())


@pytest.mark.parametrize("case", CASES)
def test_recorded_requests_are_valid_by_the_services_own_model(case: str) -> None:
    recorded = json.loads((RECORDED / f"{case}.json").read_text())
    assert tuple(recorded) == CREATING + (("CreateInferenceComponent",) if CASES[case].component else ())
    for operation, body in recorded.items():
        assert violations("sagemaker", operation, body) == []


def test_the_recorded_cases_are_the_six_shapes_of_an_endpoint() -> None:
    bodies = {case: json.loads((RECORDED / f"{case}.json").read_text()) for case in CASES}
    variants = {case: body["CreateEndpointConfig"]["ProductionVariants"][0] for case, body in bodies.items()}
    assert {path.stem for path in RECORDED.iterdir()} == CASES.keys()
    assert variants["single-gpu"]["InstanceType"] == "ml.g6.2xlarge"
    assert variants["multi-gpu"]["InstanceType"] == "ml.g6e.12xlarge"
    assert bodies["multi-gpu"]["CreateModel"]["PrimaryContainer"]["Environment"]["SM_NUM_GPUS"] == "4"
    isolated = bodies["s3-isolated"]["CreateModel"]
    assert isolated["EnableNetworkIsolation"] is True
    assert isolated["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3DataType"] == "S3Prefix"
    own = bodies["own-code"]["CreateModel"]["PrimaryContainer"]
    assert (
        own["Environment"].items()
        >= {
            "HF_MODEL_ID": "org/model",
            "TRUST_CUSTOM_CODE": "true",
        }.items()
    )
    assert own["ModelDataSource"]["S3DataSource"]["S3Uri"] == "s3://weights/llm-code/"
    assert bodies["async"]["CreateEndpointConfig"]["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"]
    assert variants["component-to-zero"]["ManagedInstanceScaling"]["MinInstanceCount"] == 0


@needs_sdk_2
@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].component is None])
def test_sdk_and_boto3_send_the_same(case: str, clients: Clients) -> None:
    from sagemaker_deploy.sdk_v2 import create_through_sdk

    spec = CASES[case]
    requests = build_requests(spec, REGION)
    seen = recorder(clients.sagemaker)
    create_through_sdk(spec, requests, clients)
    by_sdk = {name: body for name, body in seen if name in CREATING}
    delete(spec.name, clients, Silent())
    seen.clear()
    ControlPlane(clients, Silent()).create(requests)
    assert by_sdk == {name: body for name, body in seen if name in CREATING} == requests.by_operation()


@needs_sdk_2
def test_the_sdk_makes_no_bucket_and_asks_nobody(moto_url: str) -> None:
    from sagemaker_deploy.sdk_v2 import create_through_sdk

    calls: list[str] = []
    session = boto3.Session(region_name=REGION)
    session.events.register("before-call", lambda model, **_: calls.append(model.name))
    clients = Clients(session, endpoint_url=moto_url)
    create_through_sdk(CASES["single-gpu"], build_requests(CASES["single-gpu"], REGION), clients)
    assert calls == [*CREATING]


def test_equal_specifications_give_equal_requests_and_different_ones_other_names() -> None:
    one, same = build_requests(make_spec(), REGION), build_requests(make_spec(), REGION)
    other = build_requests(make_spec(image=make_spec().image.replace("a" * 64, "b" * 64)), REGION)
    assert one == same
    assert one.model_name != other.model_name
    assert one.config_name != other.config_name
    assert one.endpoint_name == other.endpoint_name == "llm"


def test_a_change_of_hosting_alone_keeps_the_model() -> None:
    one, other = build_requests(make_spec(), REGION), build_requests(make_spec(instance_count=2), REGION)
    assert one.model_name == other.model_name
    assert one.config_name != other.config_name


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(make_spec())])
def test_every_field_of_the_wish_reaches_aws(field: str) -> None:
    """Nothing is accepted and ignored."""
    changed: dict[str, Any] = {
        "name": "other",
        "image": "other",
        "role": "arn:aws:iam::123456789012:role/other",
        "instance_type": "ml.g6e.xlarge",
        "instance_count": 2,
        "num_gpus": 1,
        "model_id": "org/other",
        "model_s3": "s3://b/other/",
        "quantize": "none",
        "trust_remote_code": True,
        "trust_custom_code": True,
        "enable_adapters": True,
        "code_s3": "s3://b/other/",
        "environment": {"A": "1"},
        "tags": {"A": "1"},
        "network_isolation": True,
        "vpc": CASES["s3-isolated"].vpc,
        "asynchronous": CASES["async"].asynchronous,
        "component": CASES["component-to-zero"].component,
        "weights_gb": 50.0,
        "health_check_s": 700,
        "download_s": 700,
        "cuda": "13.0",
        "ami_version": "al2-ami-sagemaker-inference-gpu-3-1",
        "routing": "RANDOM",
        "max_total_tokens": 99,
    }
    change = {field: changed.get(field, "x" if field in ("revision", "hf_token", "api_key") else 5)}
    base: dict[str, Any] = {"model_id": "", "model_s3": "s3://b/p/"}
    if field in ("model_id", "revision", "hf_token"):
        base = {}
    if field == "code_s3":
        base = {"trust_custom_code": True}
    if field == "volume_gb":
        base |= {"instance_type": "ml.c7i.2xlarge"}
    before = build_requests(make_spec(**base), REGION)
    assert build_requests(make_spec(**{**base, **change}), REGION) != before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"instance_type": "ml.g6.huge"}, "InstanceType"),
        ({"ami_version": "newest"}, "InferenceAmiVersion"),
        ({"tags": {"k": "v" * 257}}, "at most 256"),
        ({"image": "x" * 300}, "at most 255"),
    ],
)
def test_what_sagemaker_would_refuse_is_named(change: dict[str, Any], says: str) -> None:
    assert any(says in line for line in build_requests(make_spec(**change), REGION).violations())


@pytest.mark.parametrize(
    ("operation", "params", "says"),
    [
        ("CreateEndpoint", {}, "Missing required"),
        ("CreateEndpoint", {"EndpointName": "a_b", "EndpointConfigName": "c"}, "does not match"),
        ("CreateEndpoint", {"EndpointName": "a", "EndpointConfigName": "c" * 64}, "at most 63"),
        ("CreateEndpointConfig", {"EndpointConfigName": "c", "ProductionVariants": []}, "min"),
        ("CreateModel", {"ModelName": "m", "Nonsense": 1}, "Unknown parameter"),
        (
            "CreateEndpointConfig",
            {"EndpointConfigName": "c", "ProductionVariants": [{"VariantName": "v", "VolumeSizeInGB": 600}]},
            "at most 512",
        ),
    ],
)
def test_the_service_model_catches_what_it_describes(operation: str, params: dict[str, Any], says: str) -> None:
    assert any(says in line for line in violations("sagemaker", operation, params))


def test_every_instance_in_the_table_exists() -> None:
    for instance in INSTANCES:
        assert build_requests(make_spec(instance_type=instance.name), REGION).violations() == []


@pytest.mark.parametrize(
    ("weights_gb", "health_s", "download_s"),
    [(None, 600, 600), (1.0, 600, 600), (16.4, 984, 600), (40.0, 2400, 1200), (141.0, 3600, 3600)],
)
def test_timeouts_grow_with_the_weights(weights_gb: float | None, health_s: int, download_s: int) -> None:
    assert health_check_timeout_s(weights_gb) == health_s
    assert download_timeout_s(weights_gb) == download_s


@pytest.mark.parametrize(
    ("cuda", "instance_type", "ami"),
    [
        ("", "ml.g6.xlarge", ""),
        ("12.9", "ml.g6.xlarge", ""),
        ("12.6", "ml.g6e.12xlarge", ""),
        ("12.6", "ml.p5.48xlarge", ""),
        *(
            (cuda, f"ml.{size}", "al2-ami-sagemaker-inference-gpu-3-1")
            for cuda in ("", "12.6")
            for size in ("g4dn.xlarge", "g5.xlarge", "g5.48xlarge", "p4d.24xlarge", "p4de.24xlarge")
        ),
        ("13.0", "ml.g5.xlarge", "al2023-ami-sagemaker-inference-gpu-4-1"),
        ("13.0", "ml.g6.xlarge", "al2023-ami-sagemaker-inference-gpu-4-1"),
        ("12.9", "ml.g7e.2xlarge", "al2023-ami-sagemaker-inference-gpu-4-1"),
        ("13.0", "ml.m5.large", ""),
    ],
)
def test_the_host_image_follows_cuda_and_gpu(cuda: str, instance_type: str, ami: str) -> None:
    assert host_ami_version(cuda, instance_type) == ami
