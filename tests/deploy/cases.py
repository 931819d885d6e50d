"""The six shapes of endpoint whose requests are recorded."""

from __future__ import annotations

from sagemaker_deploy.request.spec import AsyncOptions, ComponentOptions, DeploySpec, VpcOptions
from tests.deploy.conftest import make_spec

CASES: dict[str, DeploySpec] = {
    "single-gpu": make_spec(weights_gb=16.4, max_input_tokens=3072, max_total_tokens=4096),
    "multi-gpu": make_spec(
        instance_type="ml.g6e.12xlarge",
        instance_count=2,
        model_id="org/large",
        quantize="none",
        num_gpus=4,
        weights_gb=141.0,
        cuda="13.0",
        tags={"team": "search"},
        hf_token="hf_x",
    ),
    "s3-isolated": make_spec(
        model_id="",
        model_s3="s3://weights/llm/",
        network_isolation=True,
        weights_gb=40.0,
        vpc=VpcOptions(subnets=("subnet-1", "subnet-2"), security_groups=("sg-1",)),
        routing="PREFIX_AWARE",
    ),
    "async": make_spec(
        model_id="",
        model_s3="s3://weights/llm/",
        asynchronous=AsyncOptions(
            output="s3://answers/out",
            failure="s3://answers/errors",
            max_concurrent=32,
            success_topic="arn:aws:sns:us-east-1:123456789012:done",
            error_topic="arn:aws:sns:us-east-1:123456789012:failed",
        ),
    ),
    "component-to-zero": make_spec(
        instance_type="ml.g6e.2xlarge",
        component=ComponentOptions(memory_mib=32768, copies=1, min_instances=0, max_instances=2),
        weights_gb=16.4,
    ),
    "own-code": make_spec(trust_custom_code=True, code_s3="s3://weights/llm-code/", weights_gb=16.4),
}
