"""`plan` and `deploy`: one reading of the command line, once without and once with consequences."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Callable

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.rollback import UpdateOptions
from sagemaker_deploy.cli.arguments import given, refuse_beside
from sagemaker_deploy.cli.code_argument import code_of, needs_upload, say_unchecked, upload_parts
from sagemaker_deploy.cli.console import Output
from sagemaker_deploy.cli.draft import Draft, draft_of, sizes_of
from sagemaker_deploy.cli.model_argument import model_of
from sagemaker_deploy.cli.page import page
from sagemaker_deploy.deployment import DeployOptions
from sagemaker_deploy.deployment import deploy as bring_up
from sagemaker_deploy.errors import PreflightError, SpecError
from sagemaker_deploy.plan import make_plan
from sagemaker_deploy.request.model_reference import ModelKind, ModelReference
from sagemaker_deploy.request.user_code import UserCode
from sagemaker_deploy.sizing.sizes import Sizes
from sagemaker_deploy.stand_ins import STAND_INS, WHY_NEEDED

MakeClients = Callable[[], Clients]
# (option of `plan` alone, whether a value follows)
_PLAN_ONLY = (
    *(("--json", False), ("--no-fit", False), ("--offline", False)),
    *(("--context", True), ("--concurrency", True), ("--model-dir", True)),
)


def plan(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    code = code_of(args)
    model = model_of(args, code)
    if args.no_fit:
        refuse_beside(args, ("--model-dir", "--context", "--concurrency"), "--no-fit")
    made = None if args.offline else _if_region(clients)
    region = made.region if made else args.region
    draft = draft_of(args, model, sizes_of(args, model, made, offline=args.offline), code)
    missing = draft.missing if region else ("--region", *draft.missing)
    result = make_plan(
        draft.spec,
        region or STAND_INS["--region"],
        load=draft.load,
        clients=made,
        sizes=draft.sizes,
        missing=missing,
    )
    result = dataclasses.replace(result, warnings=(*result.warnings, *(code.warnings() if code else ())))
    if args.json:
        output.warnings(result.warnings)
        output.json(result.as_dict())
        return 0
    for line in page(result, model, _following(args, draft, missing), code):
        output.line(line)
    return 0


def deploy(args: argparse.Namespace, clients: MakeClients, output: Output) -> int:
    options = _deploy_options(args)
    code = code_of(args)
    model = model_of(args, code)
    _check_complete(args, model, code)
    made = clients()
    unknown = args.instance_type and model.kind is not ModelKind.LOCAL
    sizes = Sizes() if unknown else sizes_of(args, model, made, offline=False)
    draft = draft_of(args, model, sizes, code)
    if sizes.problem:
        raise PreflightError(f"{model.text}: {sizes.problem}")
    if not args.instance_type:
        _check_recommended(draft)
    with output.progress() as progress:
        if not args.instance_type:
            progress.step(f"{draft.spec.instance_type}: the recommended type, as none was given")
        if code is not None and code.requirements and options.preflight:
            say_unchecked(code.requirements, progress)
        upload_parts(model, code, draft.spec.mounted, made["s3"], progress)
        done = bring_up(draft.spec, made, options, progress=progress)
    output.json({"endpoint": done.spec.name, "image": done.spec.image, "model": done.requests.model_name})
    return 0


def _if_region(clients: MakeClients) -> Clients | None:
    """AWS clients; None if no region is known, without which nothing can be asked."""
    try:
        return clients()
    except SpecError:
        return None


def _check_complete(args: argparse.Namespace, model: ModelReference, code: UserCode | None) -> None:
    """Raise `SpecError` for what a deployment needs whatever the model's sizes are."""
    needed = ("--image", "--role", "--upload-to") if needs_upload(model, code) else ("--image", "--role")
    missing = [option for option in needed if not given(args, option)]
    if missing:
        reasons = "; ".join(f"{option}: {WHY_NEEDED[option]}" for option in missing)
        raise SpecError(f"`deploy` needs {' and '.join(missing)}", remedy=reasons)


def _check_recommended(draft: Draft) -> None:
    """Raise `SpecError` unless the type was recommended from sizes that were read: nothing is billed on a guess."""
    if draft.sizes.not_read or "--instance-type" in draft.missing:
        why = draft.sizes.not_read or "no GPU instance holds the model"
        raise SpecError(f"give --instance-type, none can be recommended: {why}", remedy="`plan` shows what was assumed")


def _deploy_options(args: argparse.Namespace) -> DeployOptions:
    if args.bake_s is not None and not args.update:
        raise SpecError("--bake-s does nothing without --update")
    if args.wait_s is not None and args.no_wait:
        raise SpecError("--wait-s and --no-wait exclude each other")
    times = {"wait_s": args.wait_s} if args.wait_s is not None else {}
    bake = {"bake_s": args.bake_s} if args.bake_s is not None else {}
    return DeployOptions(
        way=args.way,
        wait=not args.no_wait,
        keep=args.keep,
        preflight=not args.no_preflight,
        update=UpdateOptions(strategy=args.update, **bake) if args.update else None,
        **times,
    )


def _following(args: argparse.Namespace, draft: Draft, missing: tuple[str, ...]) -> list[str]:
    """The command that deploys what was planned, with capitals for what is missing."""
    words = ["sagemaker-deploy"]
    if "--region" in missing:
        words.append("--region REGION")
    words += [shlex.quote(word) for word in _without_plan_only(args.words)]
    if not given(args, "--instance-type") and "--instance-type" not in missing:
        words.append(f"--instance-type {draft.spec.instance_type}")
    placeholders = {"--image": "URI", "--role": "ARN", "--instance-type": "TYPE", "--upload-to": "s3://BUCKET/PREFIX/"}
    return [*words, *(f"{option} {text}" for option, text in placeholders.items() if option in missing)]


def _without_plan_only(words: list[str]) -> list[str]:
    """The words of a `plan` as those of a `deploy`; argparse also takes the unambiguous start of an option."""
    kept: list[str] = []
    skip = False
    for word in words:
        start, equals, _ = word.partition("=")
        known = next((one for one in _PLAN_ONLY if one[0] == start), None)
        if known is None and len(start) > 2 and start.startswith("--") and start != "--model":
            known = next((one for one in _PLAN_ONLY if one[0].startswith(start)), None)
        if not skip and known is None:
            kept.append("deploy" if word == "plan" and "deploy" not in kept else word)
        skip = not skip and known is not None and known[1] and not equals
    return kept
