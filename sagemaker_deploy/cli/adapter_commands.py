"""`adapter create`, `adapter list` and `adapter delete`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from sagemaker_deploy.aws.adapters import AdapterOptions, create_adapter, delete_adapter, list_adapters
from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.cli.console import Output

MakeClients = Callable[[], Clients]


def create(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    options = AdapterOptions(args.adapter, args.source, args.upload_to, args.base)
    with output.progress() as progress:
        made = create_adapter(args.name, options, clients(), progress)
    output.json({"adapter": made["InferenceComponentName"], "endpoint": args.name})
    return 0


def list_all(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    output.json(list_adapters(args.name, clients()))
    return 0


def delete(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    with output.progress() as progress:
        found = delete_adapter(args.name, args.adapter, clients(), progress)
        if not found:
            progress.step(f"there is no adapter {args.adapter}")
    return 0


def add_adapter_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `adapter` with its own subcommands."""
    text = "adapters of an endpoint whose model is an inference component"
    parser = subparsers.add_parser("adapter", help=text, description=text)
    below = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, what in (
        ("create", create, "upload an adapter, create its component and wait until it is in service"),
        ("list", list_all, "show the adapters"),
        ("delete", delete, "delete an adapter's component"),
    ):
        each = below.add_parser(name, help=what, description=what)
        each.set_defaults(command=command)
        each.add_argument("name", help="of the endpoint")
        if command is not list_all:
            each.add_argument("adapter", help="of the adapter and its component")
        if command is create:
            each.add_argument("--source", required=True, help="directory that peft wrote, or a .tar.gz of its files")
            each.add_argument("--upload-to", default="", metavar="S3_PREFIX", help="for a source that is not in S3")
            each.add_argument("--base", default="", help="component of the model; default: `<name>-model`")
