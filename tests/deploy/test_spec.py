"""What is refused before anything is sent, and what the container is told."""

from __future__ import annotations

from typing import Any

import pytest

from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.environment import container_environment, environment_warnings, redacted
from sagemaker_deploy.request.spec import AsyncOptions, ComponentOptions
from tests.deploy.conftest import REGION, make_spec


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "under_score"}, "letters, digits"),
        ({"name": "-x"}, "letters, digits"),
        ({"name": "x" * 51}, "at most 50"),
        ({"role": "endpoint"}, "ARN"),
        ({"image": ""}, "image"),
        ({"image": "a b"}, "image"),
        ({"quantize": "int3"}, "quantize 'int3' must be one of auto, none"),
        ({"quantize": "exl2"}, "quantize 'exl2' must be one of auto, none"),
        ({"quantize": "int4"}, "quantize 'int4' is for instances without GPU, and ml.g6.2xlarge has one"),
        ({"num_gpus": 2}, "num_gpus must be at most 1 on ml.g6.2xlarge, got 2"),
        (
            {"component": ComponentOptions(memory_mib=1024, num_gpus=2)},
            "component num_gpus must be at most 1 on ml.g6.2xlarge, got 2",
        ),
        ({"routing": "FASTEST"}, "routing"),
        ({"instance_count": 0}, "instance_count must be 1"),
        ({"health_check_s": 3601}, "health_check_s must be 60 to 3600"),
        ({"download_s": 59}, "download_s must be 60"),
        ({"volume_gb": 513}, "volume_gb"),
        ({"max_input_tokens": 10, "max_total_tokens": 10}, "must be below"),
        ({"environment": {"1X": "y"}}, "environment variable '1X'"),
        ({"model_s3": "s3://b/p", "model_id": ""}, "must end with '/'"),
        ({"model_s3": "http://b/p/", "model_id": ""}, "s3:// URI"),
        ({"model_s3": "s3://b/p/"}, "exclude each other"),
        ({"network_isolation": True}, "network isolation cuts off"),
        (
            {"asynchronous": AsyncOptions(output="s3://b/o"), "component": ComponentOptions(memory_mib=1024)},
            "takes no inference component",
        ),
    ],
)
def test_an_impossible_wish_is_refused_by_field(change: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        make_spec(**change)


def test_a_directory_below_the_mounted_weights_may_be_named() -> None:
    spec = make_spec(model_s3="s3://b/p/", model_id="/opt/ml/model/sub", network_isolation=True)
    assert container_environment(spec, REGION)["HF_MODEL_ID"] == "/opt/ml/model/sub"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AsyncOptions(output="b/o"), "async output"),
        (lambda: AsyncOptions(output="s3://b/o", failure="b"), "async failure"),
        (lambda: AsyncOptions(output="s3://b/o", max_concurrent=1001), "1 to 1000"),
        (lambda: ComponentOptions(memory_mib=127), "at least 128"),
        (
            lambda: ComponentOptions(memory_mib=128, min_instances=2),
            "min_instances must be 0 to max_instances, which is 1, got 2",
        ),
    ],
)
def test_options_are_refused_by_field(make: Any, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        make()


def test_the_environment_the_container_understands() -> None:
    spec = make_spec(
        revision="abc",
        quantize="bitsandbytes-nf4",
        trust_remote_code=True,
        instance_type="ml.g6.12xlarge",
        num_gpus=4,
        max_input_tokens=1000,
        max_total_tokens=2000,
        max_batch_prefill_tokens=4096,
        max_concurrent_requests=64,
        environment={"EXTRA": "1"},
    )
    assert container_environment(spec, REGION) == {
        "HF_MODEL_ID": "org/model",
        "HF_MODEL_REVISION": "abc",
        "HF_MODEL_QUANTIZE": "bitsandbytes-nf4",
        "HF_MODEL_TRUST_REMOTE_CODE": "true",
        "SM_NUM_GPUS": "4",
        "MAX_INPUT_TOKENS": "1000",
        "MAX_TOTAL_TOKENS": "2000",
        "MAX_BATCH_PREFILL_TOKENS": "4096",
        "MAX_CONCURRENT_REQUESTS": "64",
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": REGION,
        "EXTRA": "1",
    }


def test_the_users_own_entry_wins() -> None:
    spec = make_spec(environment={"HF_MODEL_QUANTIZE": "none"})
    assert container_environment(spec, REGION)["HF_MODEL_QUANTIZE"] == "none"


def test_quantisations_for_cpu_go_to_instances_without_gpu() -> None:
    spec = make_spec(quantize="int8", instance_type="ml.c7i.2xlarge")
    assert container_environment(spec, REGION)["HF_MODEL_QUANTIZE"] == "int8"


def test_isolation_tells_the_hub_client_so() -> None:
    spec = make_spec(model_id="", model_s3="s3://b/p/", network_isolation=True)
    assert container_environment(spec, REGION)["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({f"V{i}": "" for i in range(101)}, "at most 100"),
        ({"V": "x" * 1025}, "at most 1024"),
        ({f"V{i}": "x" * 1000 for i in range(40)}, "at most 32768"),
    ],
)
def test_sagemakers_limits_on_the_environment(environment: dict[str, str], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        container_environment(make_spec(environment=environment), REGION)


def test_secrets_are_warned_of_and_never_shown() -> None:
    spec = make_spec(hf_token="hf_secret", api_key="key", environment={"DB_PASSWORD": "p"})
    environment = container_environment(spec, REGION)
    text = " ".join(environment_warnings(environment))
    assert "API_KEY, DB_PASSWORD, HF_TOKEN will be stored in plain text" in text
    assert "DescribeModel" in text
    assert "drops the Authorization header" in text
    shown = redacted(environment)
    assert shown["HF_TOKEN"] == shown["API_KEY"] == shown["DB_PASSWORD"] == "********"
    assert shown["HF_MODEL_ID"] == "org/model"
    assert "hf_secret" not in repr(spec)


def test_token_counts_are_no_secrets() -> None:
    assert not list(environment_warnings({"MAX_INPUT_TOKENS": "5", "MAX_TOTAL_TOKENS": "6"}))
