"""What --code means for an endpoint: where the code is copied, and by which fields the container runs it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sagemaker_deploy.aws.upload import upload_code, upload_model
from sagemaker_deploy.checking.requirement_check import check_requirements
from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.progress import Progress
from sagemaker_deploy.request.model_reference import ModelKind, ModelReference
from sagemaker_deploy.request.user_code import UserCode, read_code, variables


def code_of(args: argparse.Namespace) -> UserCode | None:
    """Return the code of --code, None without. Raises `SpecError` if the container could not run it."""
    return read_code(args.code) if args.code is not None else None


def needs_upload(model: ModelReference, code: UserCode | None) -> bool:
    """True if --upload-to has to name a prefix: code for a model in S3 goes beside it."""
    return model.kind is ModelKind.LOCAL or (code is not None and model.kind is not ModelKind.S3)


def code_fields(model: ModelReference, code: UserCode | None, prefix: str) -> dict[str, Any]:
    """Return the fields of a specification for code that lies in S3 at `prefix`. Raises `SpecError`."""
    if code is None:
        return {}
    variables(code, in_image=model.kind is ModelKind.BUNDLED and bool(model.location))
    if model.kind in (ModelKind.HUB, ModelKind.BUNDLED) and model.location:
        return {"trust_custom_code": True, "code_s3": prefix}
    if model.kind is not ModelKind.BUNDLED:
        return {"trust_custom_code": True}
    if not code.owns_model:
        raise SpecError(f"{code.directory / code.main} loads no model of its own; give --model")
    return {"trust_custom_code": True, "model_s3": prefix}


def say_unchecked(requirements: Path, progress: Progress) -> None:
    """Warn if the requirements could not be checked. Raises `PreflightError` if they cannot be met."""
    warning = check_requirements(requirements)
    if warning:
        progress.warn(warning)


def upload_parts(model: ModelReference, code: UserCode | None, prefix: str, s3: Any, progress: Progress) -> None:
    """Copy to S3 what lies here: a local model, the code, or both."""
    for warning in code.warnings() if code else ():
        progress.warn(warning)
    if model.kind is ModelKind.LOCAL:
        upload_model(Path(model.location), prefix, s3, progress, code=code)
    elif code is not None:
        upload_code(code, model.location if model.kind is ModelKind.S3 else prefix, s3, progress)
