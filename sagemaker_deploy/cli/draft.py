"""From a command line to a specification: which model, how large, on which instance type, and what is missing."""

from __future__ import annotations

import argparse
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.cli.arguments import component_of, pairs, spec_from
from sagemaker_deploy.cli.code_argument import code_fields, needs_upload
from sagemaker_deploy.cli.model_argument import model_fields, name_of, upload_prefix
from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.model_reference import ModelKind, ModelReference
from sagemaker_deploy.request.spec import DeploySpec
from sagemaker_deploy.request.user_code import UserCode
from sagemaker_deploy.sizing.fit import Load, default_load
from sagemaker_deploy.sizing.hub import Hub
from sagemaker_deploy.sizing.model_source import ModelFiles, read_model
from sagemaker_deploy.sizing.recommendation import Recommendation, recommend
from sagemaker_deploy.sizing.sizes import Sizes, assume, read_or_assume
from sagemaker_deploy.stand_ins import STAND_INS


@dataclass(frozen=True)
class Draft:
    """A specification in the making. `missing` are the options that are still needed; stand-ins take their places."""

    model: ModelReference
    sizes: Sizes
    load: Load | None
    spec: DeploySpec
    missing: tuple[str, ...]


def draft_of(args: argparse.Namespace, model: ModelReference, sizes: Sizes, code: UserCode | None = None) -> Draft:
    """Return the draft; without --instance-type it is on the recommended type. Raises `SpecError`."""
    load = load_of(args, sizes)
    instance_type = args.instance_type or _recommended_type(args, sizes, load)
    prefix = upload_prefix(args)
    given = {"--image": args.image, "--role": args.role, "--instance-type": instance_type}
    if needs_upload(model, code):
        given["--upload-to"] = prefix
    missing = [option for option, value in given.items() if not value]
    whole = {option: value or STAND_INS[option] for option, value in given.items()}
    weights_gb = round(sizes.shape.checkpoint_gb, 1) if sizes.shape else None
    spec = spec_from(
        args,
        name=name_of(args, model),
        image=whole["--image"],
        role=whole["--role"],
        instance_type=whole["--instance-type"],
        weights_gb=args.weights_gb if args.weights_gb is not None else weights_gb,
        **(model_fields(model, whole.get("--upload-to", "")) | code_fields(model, code, whole.get("--upload-to", ""))),
    )
    return Draft(model, sizes, load, spec, tuple(missing))


def sizes_of(args: argparse.Namespace, model: ModelReference, clients: Clients | None, *, offline: bool) -> Sizes:
    """Return the model's sizes. Without `clients` S3 is not read, and if `offline` the Hub neither."""
    if getattr(args, "no_fit", False):
        return Sizes(not_read="--no-fit was given")
    copy = getattr(args, "model_dir", "")
    if copy and not Path(copy).exists():
        raise SpecError(f"--model-dir {copy!r} does not exist")
    if copy:  # it may hold config.json alone
        return dataclasses.replace(read_or_assume(lambda: read_model(copy), model.title), problem="")
    if model.kind is ModelKind.LOCAL:
        if not model.file and not (Path(model.location) / "config.json").is_file():
            return Sizes(not_read="the code loads its own model")
        return read_or_assume(lambda: read_model(model.source), model.title)
    if model.kind is ModelKind.BUNDLED:
        return Sizes(not_read="it is inside the image")
    if offline:
        return assume(model.title, "--offline was given")
    if model.kind is ModelKind.S3 and clients is None:
        return assume(model.title, "there is no AWS region to read S3 in")
    return read_or_assume(lambda: _read(args, model, clients), model.title)


def load_of(args: argparse.Namespace, sizes: Sizes) -> Load | None:
    """Return the load to plan for; None without sizes."""
    if sizes.shape is None:
        return None
    usual = default_load(sizes.shape, args.max_total_tokens, args.max_concurrent_requests)
    context, concurrency = getattr(args, "context", None), getattr(args, "concurrency", None)
    load = Load(
        usual.context if context is None else context,
        usual.concurrency if concurrency is None else concurrency,
        usual.max_total_tokens,
    )
    if load.context < 1 or load.concurrency < 1:
        raise SpecError("--context and --concurrency must be at least 1")
    return load


def _read(args: argparse.Namespace, model: ModelReference, clients: Clients | None) -> ModelFiles:
    own = {"HF_TOKEN": os.environ.get(args.hf_token_from, "")}
    hub = Hub.from_environment(pairs("--env", args.env), own, os.environ)
    return read_model(model.source, s3=clients["s3"] if clients else None, revision=args.revision, hub=hub)


def _recommended_type(args: argparse.Namespace, sizes: Sizes, load: Load | None) -> str:
    """The recommended instance type, "" if there is none."""
    found = recommendation_of(args, sizes, load)
    return found.best.instance.name if found else ""


def recommendation_of(args: argparse.Namespace, sizes: Sizes, load: Load | None) -> Recommendation | None:
    """Return the recommendation for the GPUs that the options ask for; None if nothing fits or no size is known."""
    if sizes.shape is None or load is None:
        return None
    component = component_of(args)
    wanted = args.num_gpus or (component.num_gpus if component else None)
    return recommend(sizes.shape, load, args.quantize, max_gpus=wanted)
