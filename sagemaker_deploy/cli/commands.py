"""The commands. Each reads its options, calls the library and shows the result."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sagemaker_deploy.aws.autoscaling import ScalingOptions
from sagemaker_deploy.aws.autoscaling import autoscale as scale
from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.iam import Needs, delete_role, ensure_role
from sagemaker_deploy.aws.image import build_commands, inspect_image
from sagemaker_deploy.aws.logs import last_lines
from sagemaker_deploy.aws.removal import delete as remove
from sagemaker_deploy.aws.status import endpoint_status
from sagemaker_deploy.aws.upload import upload_model
from sagemaker_deploy.calling.bearer import bearer_token, openai_base_url
from sagemaker_deploy.calling.endpoint_client import EndpointClient
from sagemaker_deploy.checking.contract import Finding, check_contract
from sagemaker_deploy.checking.local_run import LocalOptions, check_locally
from sagemaker_deploy.cli.arguments import pairs, refuse_beside, refuse_idle
from sagemaker_deploy.cli.code_argument import code_of, say_unchecked
from sagemaker_deploy.cli.console import Output
from sagemaker_deploy.cli.model_argument import own_directory
from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.model_reference import ModelKind, parse_model
from sagemaker_deploy.request.user_code import UserCode, variables

MakeClients = Callable[[], Clients]
BROKEN_CONTRACT = 3


def image(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    if args.inspect:
        refuse_beside(args, ("--torch", "--context", "--dockerfile"), "--inspect")
    else:
        build = {"context": args.context, "dockerfile": args.dockerfile, "torch": args.torch}
        for command in build_commands(args.image, **{key: value for key, value in build.items() if value}):
            output.line(command)
        return 0
    report = inspect_image(args.image, clients())
    output.warnings(report.warnings)
    report.raise_for_problems()
    output.json({"uri": report.uri, "size_bytes": report.size_bytes, "cuda": report.cuda, "labels": report.labels})
    return 0


def role(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    if args.delete:
        refuse_beside(args, ("--image", "--read", "--write", "--topic", "--vpc"), "--delete")
    elif not args.image:
        raise SpecError("`role` needs --image, the image that the role may pull")
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
    if not args.directory.is_dir():
        raise SpecError(
            f"{args.directory} is no directory here",
            remedy=f"fetch a model of the Hub first: hf download {args.directory} --local-dir ./model",
        )
    code = code_of(args)
    with output.progress() as progress:
        if code is not None and code.requirements:
            say_unchecked(code.requirements, progress)
        for warning in code.warnings() if code else ():
            progress.warn(warning)
        done = upload_model(args.directory, args.prefix, clients()["s3"], progress, code=code)
        if code is not None:
            progress.step(f"{code.main} runs if it is deployed with --trust-custom-code")
    output.json({"model_s3": done.prefix, "weights_gb": round(done.weights_gb, 2)})
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
    if args.adapter and args.component:
        raise SpecError("--adapter and --component both name an inference component; give one of them")
    component = args.adapter or args.component
    if args.openai:
        refuse_beside(args, ("--prompt", "--body", "--max-tokens", "--stream"), "--openai")
    else:
        refuse_idle(args, ("--lifetime-s",), "--openai")
    made = clients()
    if args.openai:
        output.line(f"OPENAI_BASE_URL={openai_base_url(made.region, args.name, component)}")
        lifetime_s = 3600 if args.lifetime_s is None else args.lifetime_s
        output.line(f"OPENAI_API_KEY={bearer_token(made.session, made.region, lifetime_s)}")
        return 0
    client = EndpointClient(args.name, made, component=component)
    if not args.stream:
        output.json(client.predict(_body(args)))
        return 0
    for text in client.stream_text(_body(args)):
        output.piece(text)
    output.line("")
    return 0


def invoke_async(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    client = EndpointClient(args.name, clients())
    call = client.submit(_body(args), upload_to=args.upload_to)
    with output.progress() as progress:
        progress.status(f"waiting for {call.output}")
        answer = call.result(args.wait_s)
    output.json(answer)
    return 0


def check(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    return _report(check_contract(args.url), output)


def local(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    code = code_of(args)
    if code is None:
        refuse_idle(args, ("--body",), "--code")
    directory, named = _local_model(args.model, code)
    environment = pairs("--env", args.env)
    if named and "HF_MODEL_ID" in environment:
        raise SpecError("--model and --env HF_MODEL_ID name the model twice; give --model")
    if code is not None:
        named |= _code_variables(code, directory, (environment | named).get("HF_MODEL_ID", ""))
    options = LocalOptions(
        image=args.image,
        model=directory,
        code=code,
        body=json.dumps(_object(args.body)).encode() if args.body else None,
        environment=environment | named,
        gpus=args.gpus,
        start_limit_s=args.start_s,
    )
    with output.progress() as progress:
        for warning in code.warnings() if code else ():
            progress.warn(warning)
        findings = check_locally(options, progress)
    return _report(findings, output)


def _code_variables(code: UserCode, directory: Path | None, model: str) -> dict[str, str]:
    """The variables by which the container runs `code` beside the mounted `directory`, or the `model` of the Hub."""
    if directory is not None:
        code.refuse_hidden(directory)
    if directory is None and not model and not code.owns_model:
        raise SpecError(f"{code.directory / code.main} loads no model of its own; give --model")
    return variables(code, in_image=directory is None and model.startswith("/"))


def _local_model(text: str, code: UserCode | None) -> tuple[Path | None, dict[str, str]]:
    """(directory to mount, variable that names the model in the container)."""
    if not text:
        return None, {}
    model = own_directory(text, code) or parse_model(text)
    if model.kind is ModelKind.S3:
        raise SpecError(f"model {text!r} is in S3, which Docker cannot mount; download it first")
    directory = Path(model.location) if model.kind is ModelKind.LOCAL else None
    return directory, {"HF_MODEL_ID": model.container_path} if model.container_path else {}


def _report(findings: list[Finding], output: Output) -> int:
    output.findings(findings)
    return 0 if all(finding.ok for finding in findings) else BROKEN_CONTRACT


def _body(args: argparse.Namespace) -> dict[str, Any]:
    if bool(args.prompt) == bool(args.body):
        raise SpecError("give either --prompt or --body")
    if args.prompt:
        return {
            "messages": [{"role": "user", "content": args.prompt}],
            "max_tokens": 256 if args.max_tokens is None else args.max_tokens,
        }
    refuse_idle(args, ("--max-tokens",), "--prompt; write it into the body")
    return _object(args.body)


def _object(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise SpecError(f"{path} is not a JSON file: {exc}") from exc
    if not isinstance(body, dict):
        raise SpecError(f"{path} does not contain a JSON object")
    return body
