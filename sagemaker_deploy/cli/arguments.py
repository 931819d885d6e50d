"""The command-line options that describe an endpoint, and their conversion to a specification."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

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
    """Add the options that `spec_from` and `model_of` read. None is required: what a call needs is checked later."""
    parser.add_argument(
        "target", nargs="?", default="", metavar="MODEL", help="the model, as --model; beside --model, the name"
    )
    parser.add_argument("--name", default="", help="name of the endpoint; default: from the model's")
    parser.add_argument("--image", default="", help="ECR image URI, by tag or by digest")
    parser.add_argument("--role", default="", help="ARN of the execution role; `role` creates one")
    parser.add_argument("--instance-type", default="", help="for example ml.g6.2xlarge; default: the recommended one")
    parser.add_argument("--instance-count", type=int, default=1)
    parser.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE")
    _add_model_options(parser.add_argument_group("model"))
    _add_limit_options(parser.add_argument_group("limits and environment of the container"))
    _add_hosting_options(parser.add_argument_group("hosting"))
    _add_async_options(parser.add_argument_group("asynchronous endpoint"))
    _add_component_options(parser.add_argument_group("inference component"))


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", default="", help="Hub id, local directory, .gguf file, or s3://bucket/prefix/")
    group.add_argument("--model-id", default="", help="old name of --model: Hub id, or a path in the container")
    group.add_argument("--model-s3", default="", help="old name of --model: S3 prefix with the model's files")
    group.add_argument(
        "--upload-to", default="", metavar="S3_PREFIX", help="where a local model, or --code, goes first"
    )
    group.add_argument("--revision", default="", help="commit or branch of the Hub repository")
    group.add_argument("--quantize", default="auto", choices=QUANTIZATIONS)
    group.add_argument("--trust-remote-code", action="store_true", help="run Python from the model's repository")
    group.add_argument(
        "--code", type=Path, help="directory with inference.py, handler.py or model.py: copied to S3, and run"
    )
    group.add_argument("--trust-custom-code", action="store_true", help="run the code that lies beside the model")
    group.add_argument("--enable-adapters", action="store_true", help="set GPU memory aside for adapters")
    group.add_argument("--num-gpus", type=int, help="GPUs that the container uses; default: all")


def _add_limit_options(group: argparse._ArgumentGroup) -> None:
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


def _add_async_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--async-output", default="", help="S3 prefix for answers: makes the endpoint asynchronous")
    group.add_argument("--async-failure", default="", help="S3 prefix for errors")
    group.add_argument("--async-max-concurrent", type=int, help="concurrent calls on each instance")
    group.add_argument("--success-topic", default="", help="SNS topic")
    group.add_argument("--error-topic", default="", help="SNS topic")


def _add_component_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--component-memory", type=int, metavar="MIB", help="host memory; makes it an inference component"
    )
    group.add_argument("--component-gpus", type=int, help="default: 1")
    group.add_argument("--copies", type=int, help="default: 1")
    group.add_argument("--min-instances", type=int, help="default: 0")
    group.add_argument("--max-instances", type=int, help="default: 1")


def spec_from(args: argparse.Namespace, **found: Any) -> DeploySpec:
    """Return the specification; `found` are the fields that do not stand in `args` as they are. Raises `SpecError`.

    Secrets are read from environment variables, so that they do not end up in the shell's history.
    """
    fields = {name: getattr(args, name) for name in _SAME_NAME}
    fields |= {
        "environment": pairs("--env", args.env),
        "tags": pairs("--tag", args.tag),
        "hf_token": _secret(args.hf_token_from),
        "api_key": _secret(args.api_key_from),
        "vpc": _vpc(args),
        "asynchronous": _asynchronous(args),
        "component": component_of(args),
    }
    return DeploySpec(**(fields | found))


def pairs(option: str, values: list[str]) -> dict[str, str]:
    """Return KEY=VALUE options as a dictionary. Raises `SpecError` without an equals sign or for a key given twice."""
    found: dict[str, str] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"{option} takes KEY=VALUE, got {text!r}")
        if key in found:
            raise SpecError(f"{option} {key} is given twice")
        found[key] = value
    return found


def given(args: argparse.Namespace, option: str) -> bool:
    """True if an option without a default of its own stands on the command line."""
    value = getattr(args, option.removeprefix("--").replace("-", "_"))
    return value is not None and value is not False and value not in ("", [])


def refuse_idle(args: argparse.Namespace, options: tuple[str, ...], needed: str) -> None:
    """Raise `SpecError` for the first of `options` that is given, which does nothing without `needed`."""
    _refuse(args, options, f"does nothing without {needed}")


def refuse_beside(args: argparse.Namespace, options: tuple[str, ...], other: str) -> None:
    """Raise `SpecError` for the first of `options` that is given, which does nothing beside `other`."""
    _refuse(args, options, f"does nothing beside {other}")


def _refuse(args: argparse.Namespace, options: tuple[str, ...], why: str) -> None:
    for option in options:
        if given(args, option):
            raise SpecError(f"{option} {why}")


_SAME_NAME = (
    "name",
    "image",
    "role",
    "instance_type",
    "instance_count",
    "revision",
    "quantize",
    "trust_remote_code",
    "trust_custom_code",
    "enable_adapters",
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
        idle = ("--async-failure", "--async-max-concurrent", "--success-topic", "--error-topic")
        refuse_idle(args, idle, "--async-output")
        return None
    return AsyncOptions(
        output=args.async_output,
        failure=args.async_failure,
        max_concurrent=args.async_max_concurrent,
        success_topic=args.success_topic,
        error_topic=args.error_topic,
    )


def component_of(args: argparse.Namespace) -> ComponentOptions | None:
    """Return the inference component's options, None if the endpoint has none. Raises `SpecError`."""
    if args.component_memory is None:
        idle = ("--component-gpus", "--copies", "--min-instances", "--max-instances")
        refuse_idle(args, idle, "--component-memory")
        return None
    optional = {
        "num_gpus": args.component_gpus,
        "copies": args.copies,
        "min_instances": args.min_instances,
        "max_instances": args.max_instances,
    }
    changed = {key: value for key, value in optional.items() if value is not None}
    return ComponentOptions(memory_mib=args.component_memory, **changed)
