"""`python -m sagemaker_deploy COMMAND`: the parser, and the translation of errors to messages and exit statuses.

Exit status 0: done. 1: failed, with a message. 2: the command line or the specification is impossible, in one sentence.
3: a rule of the contract is broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from botocore.exceptions import BotoCoreError, ClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.image import TORCH_TARGETS
from sagemaker_deploy.cli import commands, endpoint_commands
from sagemaker_deploy.cli.adapter_commands import add_adapter_commands
from sagemaker_deploy.cli.arguments import add_spec_options
from sagemaker_deploy.cli.console import Output
from sagemaker_deploy.errors import DeployError, PreflightError, SpecError
from sagemaker_deploy.failures import explain

Command = Callable[[argparse.Namespace, Callable[[], Clients], Output], int]


def main(
    argv: Sequence[str] | None = None,
    *,
    clients: Callable[[argparse.Namespace], Clients] | None = None,
    output: Output | None = None,
) -> int:
    """Run one command; return the exit status. `clients` and `output` replace the real ones, for tests."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(words)
    args.words = words
    output = output or Output()
    make = clients or _clients
    try:
        command: Command = args.command
        return command(args, lambda: make(args), output)
    except SpecError as exc:
        output.error(exc)
        return 2
    except DeployError as exc:
        output.error(exc)
    except (ClientError, BotoCoreError) as exc:
        known = explain(str(exc))
        output.error(PreflightError(str(exc), remedy=known.remedy if known else ""))
    return 1


def _clients(args: argparse.Namespace) -> Clients:
    try:
        return Clients(region=args.region, endpoint_url=args.endpoint_url)
    except ValueError as exc:
        raise SpecError(str(exc), remedy="give --region or set AWS_REGION") from exc


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the page of usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser. Every subcommand sets `command`."""
    parser: argparse.ArgumentParser = _Parser(
        prog="sagemaker-deploy", description="From a laptop to a SageMaker endpoint."
    )
    parser.add_argument("--region", default="", help="default: AWS_REGION or the profile's region")
    parser.add_argument("--endpoint-url", help="send all AWS calls to this URL; for tests")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_making_commands(subparsers)
    _add_running_commands(subparsers)
    _add_using_commands(subparsers)
    return parser


def _add(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, command: Command, text: str
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


def _add_making_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    image = _add(subparsers, "image", commands.image, "print the commands to build and push; inspect a pushed image")
    image.add_argument("image", help="ECR image URI")
    image.add_argument("--inspect", action="store_true", help="check in ECR whether SageMaker will accept it")
    image.add_argument(
        "--torch", choices=TORCH_TARGETS, help=f"build for a CUDA release or for CPU; default: {TORCH_TARGETS[0]}"
    )
    image.add_argument("--context", help="default: .")
    image.add_argument("--dockerfile", help="default: Dockerfile")
    role = _add(subparsers, "role", commands.role, "create or update the endpoint's execution role")
    role.add_argument("role_name")
    role.add_argument("--image", default="", help="ECR image URI that the role may pull")
    role.add_argument("--read", action="append", default=[], metavar="S3_PREFIX", help="weights, async inputs")
    role.add_argument("--write", action="append", default=[], metavar="S3_PREFIX", help="async answers and errors")
    role.add_argument("--topic", action="append", default=[], metavar="SNS_ARN")
    role.add_argument("--vpc", action="store_true")
    role.add_argument("--delete", action="store_true", help="delete the role instead")
    upload = _add(subparsers, "upload", commands.upload, "copy a model directory to S3, uncompressed")
    upload.add_argument("directory", type=Path)
    upload.add_argument("prefix", help="s3://bucket/prefix/")
    upload.add_argument(
        "--code", type=Path, help="directory with inference.py, handler.py or model.py, and requirements.txt"
    )


def _add_running_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = _add(subparsers, "plan", endpoint_commands.plan, "show what `deploy` would do, and whether the model fits")
    add_spec_options(plan)
    plan.add_argument("--json", action="store_true", help="print the exact requests and policies instead of the page")
    plan.add_argument("--model-dir", default="", help="local copy of the model (config.json) to weigh instead")
    plan.add_argument("--no-fit", action="store_true", help="skip the fit check")
    plan.add_argument("--offline", action="store_true", help="call nothing, neither AWS nor the Hub")
    plan.add_argument("--concurrency", type=int, help="concurrent requests; default: --max-concurrent-requests or 8")
    plan.add_argument("--context", type=int, help="tokens of prompt and answer; default: --max-total-tokens or 4096")
    _add_deploy(subparsers)
    scale = _add(subparsers, "autoscale", commands.autoscale, "scale by the number of requests in flight")
    scale.add_argument("name")
    scale.add_argument("--min", type=int, default=1, dest="minimum")
    scale.add_argument("--max", type=int, required=True, dest="maximum")
    scale.add_argument(
        "--concurrency", type=float, default=8, help="target of requests in flight on each instance or copy"
    )
    scale.add_argument("--protect", action="store_true", help="never scale in")
    scale.add_argument("--component", action="store_true", help="scale copies of the inference component")
    scale.add_argument("--async", action="store_true", dest="asynchronous")
    delete = _add(subparsers, "delete", commands.delete, "remove everything that `deploy` and `autoscale` created")
    delete.add_argument("name")


def _add_deploy(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    deploy = _add(subparsers, "deploy", endpoint_commands.deploy, "create or update the endpoint")
    add_spec_options(deploy)
    deploy.add_argument("--way", choices=("auto", "sdk", "boto3"), default="auto")
    deploy.add_argument("--no-wait", action="store_true")
    deploy.add_argument("--wait-s", type=float, help="seconds to wait until it is in service; default: 7200")
    deploy.add_argument("--keep", action="store_true", help="after a failure, keep what was created")
    deploy.add_argument("--no-preflight", action="store_true", help="do not check image, quota and weights first")
    deploy.add_argument(
        "--update", choices=("blue-green", "rolling"), help="allow replacing what the endpoint serves, in this way"
    )
    deploy.add_argument(
        "--bake-s", type=int, help="seconds to watch the new version before the old one is removed; default: 300"
    )


def _add_using_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    add_adapter_commands(subparsers)
    _add(subparsers, "status", commands.status, "show the endpoint's state").add_argument("name")
    logs = _add(subparsers, "logs", commands.logs, "show the container's last log lines")
    logs.add_argument("name")
    logs.add_argument("--lines", type=int, default=40)
    for name, command, text in (
        ("invoke", commands.invoke, "call the endpoint"),
        ("async", commands.invoke_async, "call an asynchronous endpoint and wait for the answer"),
    ):
        call = _add(subparsers, name, command, text)
        call.add_argument("name")
        call.add_argument("--prompt", default="", help="one user message")
        call.add_argument("--body", type=Path, help="JSON file of any dialect, instead of --prompt")
        call.add_argument("--max-tokens", type=int, help="of the answer to --prompt; default: 256")
        if name == "invoke":
            call.add_argument("--component", default="", help="inference component; `<name>-model` if deployed as one")
            call.add_argument("--adapter", default="", help="inference component of an adapter")
            call.add_argument("--stream", action="store_true")
            call.add_argument("--openai", action="store_true", help="print base URL and bearer token instead")
            call.add_argument("--lifetime-s", type=int, help="lifetime of the bearer token; default: 3600")
        else:
            call.add_argument("--upload-to", default="", help="S3 prefix for bodies over 128,000 bytes")
            call.add_argument("--wait-s", type=float, default=3600)
    check = _add(subparsers, "check", commands.check, "check SageMaker's rules on a running container")
    check.add_argument("url", help="for example http://127.0.0.1:8080")
    local = _add(subparsers, "local", commands.local, "run the image with Docker as SageMaker does, then `check` it")
    local.add_argument("image")
    local.add_argument("--model", default="", help="directory or .gguf file, mounted at /opt/ml/model; or a Hub id")
    local.add_argument("--code", type=Path, help="directory with inference.py, handler.py or model.py: run as deployed")
    local.add_argument("--body", type=Path, help="JSON file that the code must answer with status 200")
    local.add_argument("--gpus", default="", help="Docker's --gpus, for example all")
    local.add_argument("--env", action="append", default=[], metavar="KEY=VALUE")
    local.add_argument("--start-s", type=float, default=480)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())
