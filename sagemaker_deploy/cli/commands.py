"""The commands. Each reads its options, calls the library and shows the result."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from sagemaker_deploy.aws.autoscaling import ScalingOptions
from sagemaker_deploy.aws.autoscaling import autoscale as scale
from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.iam import Needs, delete_role, ensure_role
from sagemaker_deploy.aws.image import build_commands, inspect_image
from sagemaker_deploy.aws.logs import last_lines
from sagemaker_deploy.aws.removal import delete as remove
from sagemaker_deploy.aws.rollback import UpdateOptions
from sagemaker_deploy.aws.status import endpoint_status
from sagemaker_deploy.aws.upload import upload_model
from sagemaker_deploy.calling.bearer import bearer_token, openai_base_url
from sagemaker_deploy.calling.endpoint_client import EndpointClient
from sagemaker_deploy.checking.contract import Finding, check_contract
from sagemaker_deploy.checking.local_run import LocalOptions, check_locally
from sagemaker_deploy.cli.arguments import pairs, spec_from
from sagemaker_deploy.cli.console import Output
from sagemaker_deploy.deployment import DeployOptions
from sagemaker_deploy.deployment import deploy as bring_up
from sagemaker_deploy.errors import PreflightError, SpecError
from sagemaker_deploy.plan import default_load, make_plan
from sagemaker_deploy.request.spec import DeploySpec
from sagemaker_deploy.sizing.fit import Load
from sagemaker_deploy.sizing.model_shape import ModelShape
from sagemaker_deploy.sizing.model_source import load_shape

MakeClients = Callable[[], Clients]
BROKEN_CONTRACT = 3


def image(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    if not args.inspect:
        for command in build_commands(args.image, args.context, args.dockerfile, args.torch):
            output.line(command)
        return 0
    report = inspect_image(args.image, clients())
    output.warnings(report.warnings)
    report.raise_for_problems()
    output.json({"uri": report.uri, "size_bytes": report.size_bytes, "cuda": report.cuda, "labels": report.labels})
    return 0


def role(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    with output.progress() as progress:
        if args.delete:
            delete_role(args.role_name, clients(), progress)
            return 0
        needs = Needs(
            image=args.image,
            reads=tuple(args.read),
            writes=tuple(args.write),
            topics=tuple(args.topic),
            vpc=args.vpc,
        )
        arn = ensure_role(args.role_name, needs, clients(), progress)
    output.line(arn)
    return 0


def upload(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    with output.progress() as progress:
        done = upload_model(args.directory, args.prefix, clients()["s3"], progress, code=args.code)
    output.json({"model_s3": done.prefix, "weights_gb": round(done.weights_gb, 2)})
    return 0


def plan(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    spec = spec_from(args)
    made = None if args.offline else clients()
    region = made.region if made else args.region
    if not region:
        raise SpecError("an offline plan needs --region")
    shape = _shape(args, spec, made, output)
    load = None
    if shape is not None:
        load = Load(args.context or default_load(spec, shape).context, args.concurrency)
    result = make_plan(spec, region, shape=shape, load=load, clients=made)
    output.warnings(result.warnings)
    output.json(result.as_dict())
    return 0


def _shape(args: argparse.Namespace, spec: DeploySpec, clients: Clients | None, output: Output) -> ModelShape | None:
    """The model's sizes; None, with a warning, if they cannot be read: the plan then has no fit check."""
    source = args.model_dir or spec.model_s3 or spec.model_id
    if args.no_fit or not source or (args.offline and not args.model_dir):
        return None
    try:
        return load_shape(source, s3=clients["s3"] if clients else None, revision=spec.revision)
    except (PreflightError, SpecError) as exc:
        output.warnings([f"no fit check: {exc}"])
        return None


def deploy(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    options = DeployOptions(
        way=args.way,
        wait=not args.no_wait,
        wait_s=args.wait_s,
        keep=args.keep,
        preflight=not args.no_preflight,
        update=UpdateOptions(strategy=args.update, bake_s=args.bake_s) if args.update else None,
    )
    with output.progress() as progress:
        done = bring_up(spec_from(args), clients(), options, progress=progress)
    output.json({"endpoint": done.spec.name, "image": done.spec.image, "model": done.requests.model_name})
    return 0


def autoscale(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    options = ScalingOptions(
        minimum=args.minimum, maximum=args.maximum, concurrency=args.concurrency, protect=args.protect
    )
    policies = scale(args.name, options, clients(), component=args.component, asynchronous=args.asynchronous)
    output.json({"endpoint": args.name, "policies": policies})
    return 0


def delete(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    with output.progress() as progress:
        removed = remove(args.name, clients(), progress)
    output.json({"endpoint": args.name, "removed": removed})
    return 0


def status(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    output.json(endpoint_status(args.name, clients()))
    return 0


def logs(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    for line in last_lines(clients()["logs"], args.name, args.lines):
        output.line(f"{line.stream} {line.text}")
    return 0


def invoke(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    made = clients()
    if args.openai:
        output.line(f"OPENAI_BASE_URL={openai_base_url(made.region, args.name, args.component)}")
        output.line(f"OPENAI_API_KEY={bearer_token(made.session, made.region, args.lifetime_s)}")
        return 0
    client = EndpointClient(args.name, made, component=args.component)
    if not args.stream:
        output.json(client.predict(_body(args)))
        return 0
    for text in client.stream_text(_body(args)):
        output.piece(text)
    output.line("")
    return 0


def invoke_async(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    client = EndpointClient(args.name, clients(), component=args.component)
    call = client.submit(_body(args), upload_to=args.upload_to)
    with output.progress() as progress:
        progress.status(f"waiting for {call.output}")
        answer = call.result(args.wait_s)
    output.json(answer)
    return 0


def check(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    return _report(check_contract(args.url), output)


def local(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    options = LocalOptions(
        image=args.image,
        model=args.model,
        environment=pairs("--env", args.env),
        gpus=args.gpus,
        start_limit_s=args.start_s,
    )
    with output.progress() as progress:
        findings = check_locally(options, progress)
    return _report(findings, output)


def _report(findings: list[Finding], output: Output) -> int:
    output.findings(findings)
    return 0 if all(finding.ok for finding in findings) else BROKEN_CONTRACT


def _body(args: argparse.Namespace) -> dict[str, Any]:
    if bool(args.prompt) == bool(args.body):
        raise SpecError("give either --prompt or --body")
    if args.prompt:
        return {"messages": [{"role": "user", "content": args.prompt}], "max_tokens": args.max_tokens}
    try:
        body = json.loads(args.body.read_text())
    except (OSError, ValueError) as exc:
        raise SpecError(f"{args.body} is not a JSON file: {exc}") from exc
    if not isinstance(body, dict):
        raise SpecError(f"{args.body} does not contain a JSON object")
    return body
