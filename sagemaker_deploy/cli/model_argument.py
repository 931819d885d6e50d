"""Which model and which endpoint a command line means."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from sagemaker_deploy.cli.arguments import refuse_idle
from sagemaker_deploy.cli.code_argument import needs_upload
from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.model_reference import MOUNT, ModelKind, ModelReference, parse_model
from sagemaker_deploy.request.user_code import UserCode

_OLD_NAMES = ("model_id", "model_s3")


def model_of(args: argparse.Namespace, code: UserCode | None = None) -> ModelReference:
    """Return the model: of --model, of its old names, or of the positional argument. Raises `SpecError`.

    With `code` that loads its own model, a directory may hold anything.
    """
    old = [f"--{name.replace('_', '-')}" for name in _OLD_NAMES if getattr(args, name)]
    if args.model and old:
        raise SpecError(f"--model and {old[0]} name the model twice; give --model")
    if old:
        model = _by_old_names(args.model_id, args.model_s3)
    elif args.model or args.target:
        model = own_directory(args.model or args.target, code) or _parsed(args)
    else:
        model = ModelReference(ModelKind.BUNDLED)
    _check(args, model, code)
    return model


def name_of(args: argparse.Namespace, model: ModelReference) -> str:
    """Return the endpoint's name: --name, the positional beside a model, or the model's. Raises `SpecError`."""
    positional = args.target if args.model or args.model_id or args.model_s3 else ""
    if positional and args.name:
        raise SpecError(f"the endpoint's name is given twice, as {positional!r} and --name {args.name}")
    name: str = args.name or positional or model.endpoint_name
    if not name:
        raise SpecError("give a model, or --name for the small model in the image")
    return name


def model_fields(model: ModelReference, upload_to: str) -> dict[str, Any]:
    """Return the fields of a specification that name the model; a local one is served from where it is uploaded."""
    prefix = {ModelKind.S3: model.location, ModelKind.LOCAL: upload_to}.get(model.kind, "")
    return {"model_id": model.container_path, "model_s3": prefix}


def _parsed(args: argparse.Namespace) -> ModelReference:
    try:
        return parse_model(args.model or args.target)
    except SpecError as exc:
        # Before --model the positional was always the endpoint's name.
        hint = "" if args.model else "give --model too if it is the endpoint's name, or --name for the image's model"
        raise SpecError(str(exc), remedy=hint) from exc


def own_directory(text: str, code: UserCode | None) -> ModelReference | None:
    """Return the directory `text` if only `code`, which loads its own model, can read what is in it."""
    path = Path(text).expanduser()
    if code is None or not code.owns_model or not path.is_dir() or (path / "config.json").is_file():
        return None
    return None if any(path.glob("*.gguf")) else ModelReference(ModelKind.LOCAL, str(path))


def _by_old_names(model_id: str, model_s3: str) -> ModelReference:
    """--model-id alone may be a path in the image; beside --model-s3 it is one in the mount."""
    if not model_s3:
        if model_id.startswith("/"):
            return ModelReference(ModelKind.BUNDLED, model_id)
        return parse_model(model_id)
    if not model_s3.startswith("s3://"):
        raise SpecError(f"--model-s3 {model_s3!r} must be an s3:// URI")
    model = parse_model(model_s3)
    if not model_id:
        return model
    if not model_id.startswith(MOUNT):
        raise SpecError(f"--model-id and --model-s3 exclude each other; S3 files appear in {MOUNT}")
    return dataclasses.replace(model, file=model_id.removeprefix(MOUNT).strip("/"))


def _check(args: argparse.Namespace, model: ModelReference, code: UserCode | None) -> None:
    if model.kind is not ModelKind.HUB:
        refuse_idle(args, ("--revision",), "a model from the Hub")
    if not needs_upload(model, code):
        refuse_idle(args, ("--upload-to",), "a local model or --code")


def upload_prefix(args: argparse.Namespace) -> str:
    """Return --upload-to with a slash at the end, "" if it is not given. Raises `SpecError`."""
    if not args.upload_to:
        return ""
    target = parse_model(args.upload_to) if args.upload_to.startswith("s3://") else None
    if target is None or target.file:
        raise SpecError(f"--upload-to {args.upload_to!r} must be s3://bucket/prefix/")
    return target.location
