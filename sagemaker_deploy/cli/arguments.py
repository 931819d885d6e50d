"""The command-line options that describe an endpoint, and their conversion to a specification."""

from __future__ import annotations

import argparse
import os

from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.spec import (
    QUANTIZATIONS,
    ROUTING_STRATEGIES,
    AsyncOptions,
    ComponentOptions,
    DeploySpec,
    VpcOptions,
)


def add_spec_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `spec_from` reads."""
    parser.add_argument("name", help="name of the endpoint")
    parser.add_argument("--image", required=True, help="ECR image URI, by tag or by digest")
    parser.add_argument("--role", required=True, help="ARN of the execution role; `role` creates one")
    parser.add_argument("--instance-type", required=True, help="for example ml.g6.2xlarge; `plan` recommends one")
    parser.add_argument("--instance-count", type=int, default=1)
    parser.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE")
    _add_model_options(parser.add_argument_group("model"))
    _add_hosting_options(parser.add_argument_group("hosting"))


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model-id", default="", help="Hub id; the container downloads it")
    group.add_argument("--revision", default="", help="commit or branch of the Hub repository")
    group.add_argument("--model-s3", default="", help="S3 prefix with the model's files, ends with /")
    group.add_argument("--quantize", default="auto", choices=QUANTIZATIONS)
    group.add_argument("--trust-remote-code", action="store_true", help="run Python from the model's repository")
    group.add_argument("--num-gpus", type=int, help="GPUs that the container uses; default: all")
    group.add_argument("--max-input-tokens", type=int)
    group.add_argument("--max-total-tokens", type=int)
    group.add_argument("--max-batch-prefill-tokens", type=int)
    group.add_argument("--max-concurrent-requests", type=int)
    group.add_argument("--env", action="append", default=[], metavar="KEY=VALUE", help="environment of the container")
    group.add_argument("--hf-token-from", default="", metavar="VARIABLE", help="local variable that holds HF_TOKEN")
    group.add_argument("--api-key-from", default="", metavar="VARIABLE", help="local variable that holds API_KEY")


def _add_hosting_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--network-isolation", action="store_true", help="give the container no network")
    group.add_argument("--subnet", action="append", default=[])
    group.add_argument("--security-group", action="append", default=[])
    group.add_argument("--weights-gb", type=float, help="size of the weights in 10^9 bytes, for timeouts")
    group.add_argument("--health-check-s", type=int, help="seconds until /ping must answer 200")
    group.add_argument("--download-s", type=int, help="seconds allowed for the download from S3")
    group.add_argument("--volume-gb", type=int, help="only for instance types without local disk")
    group.add_argument("--cuda", default="", help="CUDA release of the image; default: read from ECR, if permitted")
    group.add_argument(
        "--ami-version", default="", help="InferenceAmiVersion; default: chosen by --cuda and the instance type"
    )
    group.add_argument("--routing", default=ROUTING_STRATEGIES[0], choices=ROUTING_STRATEGIES)
    group.add_argument("--async-output", default="", help="S3 prefix for answers: makes the endpoint asynchronous")
    group.add_argument("--async-failure", default="", help="S3 prefix for errors")
    group.add_argument("--async-max-concurrent", type=int, help="concurrent calls on each instance")
    group.add_argument("--success-topic", default="", help="SNS topic")
    group.add_argument("--error-topic", default="", help="SNS topic")
    group.add_argument(
        "--component-memory", type=int, metavar="MIB", help="host memory; makes it an inference component"
    )
    group.add_argument("--component-gpus", type=int, default=1)
    group.add_argument("--copies", type=int, default=1)
    group.add_argument("--min-instances", type=int, default=0)
    group.add_argument("--max-instances", type=int, default=1)


def spec_from(args: argparse.Namespace) -> DeploySpec:
    """Return the specification. Raises `SpecError`.

    Secrets are read from environment variables, so that they do not end up in the shell's history.
    """
    return DeploySpec(
        **{name: getattr(args, name) for name in _SAME_NAME},
        environment=pairs("--env", args.env),
        tags=pairs("--tag", args.tag),
        hf_token=_secret(args.hf_token_from),
        api_key=_secret(args.api_key_from),
        vpc=_vpc(args),
        asynchronous=_asynchronous(args),
        component=_component(args),
    )


def pairs(option: str, values: list[str]) -> dict[str, str]:
    """Return KEY=VALUE options as a dictionary. Raises `SpecError` if an equals sign is missing."""
    for value in values:
        if "=" not in value:
            raise SpecError(f"{option} takes KEY=VALUE, got {value!r}")
    return dict(value.split("=", 1) for value in values)


_SAME_NAME = (
    "name",
    "image",
    "role",
    "instance_type",
    "instance_count",
    "model_id",
    "revision",
    "model_s3",
    "quantize",
    "trust_remote_code",
    "num_gpus",
    "max_input_tokens",
    "max_total_tokens",
    "max_batch_prefill_tokens",
    "max_concurrent_requests",
    "network_isolation",
    "weights_gb",
    "health_check_s",
    "download_s",
    "volume_gb",
    "cuda",
    "ami_version",
    "routing",
)


def _secret(variable: str) -> str:
    if variable and not os.environ.get(variable):
        raise SpecError(f"the variable {variable} is not set")
    return os.environ[variable] if variable else ""


def _vpc(args: argparse.Namespace) -> VpcOptions | None:
    if bool(args.subnet) != bool(args.security_group):
        raise SpecError("a VPC needs both --subnet and --security-group")
    if not args.subnet:
        return None
    return VpcOptions(subnets=tuple(args.subnet), security_groups=tuple(args.security_group))


def _asynchronous(args: argparse.Namespace) -> AsyncOptions | None:
    if not args.async_output:
        return None
    return AsyncOptions(
        output=args.async_output,
        failure=args.async_failure,
        max_concurrent=args.async_max_concurrent,
        success_topic=args.success_topic,
        error_topic=args.error_topic,
    )


def _component(args: argparse.Namespace) -> ComponentOptions | None:
    if args.component_memory is None:
        return None
    return ComponentOptions(
        memory_mib=args.component_memory,
        num_gpus=args.component_gpus,
        copies=args.copies,
        min_instances=args.min_instances,
        max_instances=args.max_instances,
    )
