"""What is refused before anything is sent, and what the container is told."""

from __future__ import annotations

from typing import Any

import pytest

from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.container_settings import same_setting
from sagemaker_deploy.request.environment import container_environment, environment_warnings, redacted
from sagemaker_deploy.request.spec import AsyncOptions, ComponentOptions, VpcOptions
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
        (
            {"quantize": "int4", "instance_type": "ml.g4dn.xlarge"},
            "quantize 'int4' computes in bfloat16 on a GPU of compute capability 8.0 or more, and the T4 of "
            "ml.g4dn.xlarge has 7.5",
        ),
        ({"quantize": "int8", "instance_type": "ml.g4dn.12xlarge"}, "the T4 of ml.g4dn.12xlarge has 7.5"),
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
        ({"model_id": "gpt2"}, "must be a Hub id"),
        ({"model_id": "a/b/c"}, "must be a Hub id"),
        ({"model_id": "", "revision": "x"}, "revision does nothing without a model from the Hub"),
        ({"model_id": "", "model_s3": "s3://b/p/", "hf_token": "x"}, "hf_token does nothing"),
        ({"download_s": 600}, "download_s does nothing without model_s3"),
        ({"instance_type": "ml.c7i.large", "cuda": "13.0"}, "cuda does nothing without a GPU instance"),
        ({"cuda": "13.0", "ami_version": "x"}, "cuda does nothing beside ami_version"),
        ({"cuda": "new"}, "cuda 'new' must be a release"),
        ({"volume_gb": 100}, "volume_gb is for instance types without local disk"),
        ({"instance_type": "ml.c7i.large", "num_gpus": 1}, "num_gpus must be 0 on ml.c7i.large, which has no GPU"),
        ({"tags": {"tgi-heir:endpoint": "x"}}, "the helper's own"),
        (
            {"instance_type": "ml.c7i.large", "component": ComponentOptions(memory_mib=1024)},
            "component num_gpus must be 0 on ml.c7i.large",
        ),
        (
            {"instance_type": "ml.g6.12xlarge", "num_gpus": 2, "component": ComponentOptions(memory_mib=1024)},
            "num_gpus 2 is more than the component's num_gpus, 1",
        ),
        (
            {"component": ComponentOptions(memory_mib=1024, copies=3, max_instances=2)},
            "component copies 3 need 3 GPUs, and 2 x ml.g6.2xlarge have 2",
        ),
        (
            {"instance_count": 2, "component": ComponentOptions(memory_mib=1024)},
            "instance_count must be at most the component's max_instances, 1, got 2",
        ),
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
        (lambda: ComponentOptions(memory_mib=128, copies=-1), "at least 0"),
        (lambda: VpcOptions(subnets=("s",), security_groups=()), "both subnets and security groups"),
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


@pytest.mark.parametrize(
    ("change", "environment", "expected"),
    [
        ({}, {"QUANTIZE": "none"}, {"QUANTIZE": "none"}),
        ({}, {"MODEL_ID": "org/other", "HF_MODEL_QUANTIZE": ""}, None),
        ({"model_id": ""}, {"MODEL_ID": "org/other"}, {"MODEL_ID": "org/other", "HF_MODEL_QUANTIZE": "auto"}),
        ({"max_input_tokens": 5}, {"MAX_INPUT_LENGTH": "5"}, {"MAX_INPUT_LENGTH": "5"}),
        ({"max_input_tokens": 5}, {"MAX_INPUT_LENGTH": "6"}, None),
        ({"quantize": "eetq"}, {"QUANTIZE": "none"}, None),
        ({"num_gpus": 1}, {"NUM_SHARD": "0"}, None),
        ({"hf_token": "a"}, {"HF_API_TOKEN": "b"}, None),
        ({"trust_remote_code": True}, {"TRUST_REMOTE_CODE": "false"}, None),
        ({}, {"LOG_LEVEL": "debug"}, {"LOG_LEVEL": "debug"}),
        (
            {"asynchronous": AsyncOptions(output="s3://b/o")},
            {"REQUEST_TIMEOUT_S": "900"},
            {"REQUEST_TIMEOUT_S": "900"},
        ),
    ],
)
def test_a_setting_is_given_once_under_any_of_its_names(
    change: dict[str, Any], environment: dict[str, str], expected: dict[str, str] | None
) -> None:
    """The container reads the first name; a second one would be ignored silently."""
    spec = make_spec(**change, environment=environment)
    if expected is None:
        with pytest.raises(SpecError, match="is given twice") as caught:
            container_environment(spec, REGION)
        assert "'b'" not in str(caught.value)
        return
    found = container_environment(spec, REGION)
    assert found.items() >= expected.items()
    for name in expected:
        assert [other for other in same_setting(name) if other in found] == [name]


@pytest.mark.parametrize(
    ("change", "environment", "says"),
    [
        ({}, {"MAX_BATCH_SIZE": "0"}, "MAX_BATCH_SIZE must be a whole number from 1 to 4096, got '0'"),
        ({}, {"DTYPE": "int8"}, "DTYPE must be one of auto"),
        ({}, {"QUANTIZE": "exl2"}, "always refused"),
        ({"instance_type": "ml.g4dn.xlarge"}, {"QUANTIZE": "int4"}, "the T4 of ml.g4dn.xlarge has 7.5"),
        ({}, {"QUANTIZE": "int8", "DTYPE": "float16"}, "computes in bfloat16 .* and DTYPE is another"),
        ({"quantize": "int4"}, {"DTYPE": "float32"}, "computes in bfloat16 .* and DTYPE is another"),
        ({}, {"PORT": "80"}, "PORT is 80, and SageMaker calls port 8080"),
        ({}, {"AIP_HTTP_PORT": "81"}, "AIP_HTTP_PORT is 81"),
        ({}, {"BIND_ADDRESS": "127.0.0.1"}, "cannot call the container"),
        ({}, {"SM_NUM_GPUS": "4"}, "SM_NUM_GPUS must be at most 1 on ml.g6.2xlarge, got 4"),
        ({"instance_type": "ml.c7i.large"}, {"DEVICE": "cuda"}, "ml.c7i.large has no GPU"),
        ({"model_id": ""}, {"HF_MODEL_ID": "gpt2"}, "neither a path in the container nor a Hub id"),
        ({"model_id": "", "network_isolation": True}, {"MODEL_ID": "org/m"}, "network isolation cuts off"),
        ({}, {"ROPE_FACTOR": "2"}, "the container refuses ROPE_FACTOR"),
        ({}, {"LORA_ADAPTERS": "a=b=c"}, "LORA_ADAPTERS must be entries id"),
        ({"max_total_tokens": 9}, {"MAX_INPUT_LENGTH": "9"}, "must be below"),
        ({}, {"API_KEY": " "}, "more than blanks"),
    ],
)
def test_what_the_container_would_refuse_is_refused_before(
    change: dict[str, Any], environment: dict[str, str], says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        container_environment(make_spec(**change, environment=environment), REGION)


@pytest.mark.parametrize(
    ("change", "environment"),
    [
        ({}, {"QUANTIZE": "int4", "DTYPE": "bfloat16"}),
        ({"quantize": "eetq", "instance_type": "ml.g4dn.xlarge"}, {}),
        ({"instance_type": "ml.g4dn.xlarge"}, {"QUANTIZE": "int4", "DEVICE": "cpu"}),
        ({"instance_type": "ml.c7i.2xlarge"}, {"QUANTIZE": "int4", "DTYPE": "float32"}),
        ({}, {"PORT": "8080", "BIND_ADDRESS": "::"}),
        ({"model_id": ""}, {"HF_MODEL_ID": "/opt/ml/model/sub", "HF_TOKEN": "x"}),
        ({}, {"NCCL_DEBUG": "INFO", "SHARDED": ""}),
    ],
)
def test_what_does_no_harm_is_passed_on(change: dict[str, Any], environment: dict[str, str]) -> None:
    found = container_environment(make_spec(**change, environment=environment), REGION)
    assert found.items() >= environment.items()


@pytest.mark.parametrize(
    ("environment", "asynchronous", "says"),
    [
        ({"CUDA_GRAPHS": "2"}, False, "the container ignores CUDA_GRAPHS"),
        ({"MAX_BATCH_SIZES": "2"}, False, "does not know MAX_BATCH_SIZES; is MAX_BATCH_SIZE meant?"),
        ({"HF_MODEL_QUANTISE": "none"}, False, "is HF_MODEL_QUANTIZE meant?"),
        ({"REQUEST_TIMEOUT_S": "120"}, False, "SageMaker cuts a call after 60 s"),
        ({"REQUEST_TIMEOUT_S": "120"}, True, ""),
        ({"NCCL_DEBUG": "INFO", "HF_HOME": "/tmp/x", "SAGEMAKER_REGION": "x"}, False, ""),
        ({"API_KEY": ""}, False, ""),
    ],
)
def test_what_does_nothing_is_warned_of(environment: dict[str, str], asynchronous: bool, says: str) -> None:
    found = list(environment_warnings(environment, asynchronous=asynchronous))
    assert says in " ".join(found) if says else found == []


@pytest.mark.parametrize("instance_type", ["ml.c7i.2xlarge", "ml.g5.xlarge", "ml.p4d.24xlarge", "ml.g9.xlarge"])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_blocks_go_to_cpus_and_to_gpus_that_multiply_them(quantize: str, instance_type: str) -> None:
    spec = make_spec(quantize=quantize, instance_type=instance_type)
    assert container_environment(spec, REGION)["HF_MODEL_QUANTIZE"] == quantize


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
