"""Copies weights and the user's code to S3, file by file: SageMaker mounts the prefix, so no archive is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.progress import Progress
from sagemaker_deploy.request.user_code import UserCode, walk

# The container names these, and runs them only if it may: handler/model/checks/custom_code.py has the same list.
_CUSTOM_CODE = ("inference.py", "handler.py", "model.py", "requirements.txt")
_OTHER_FORMATS = {".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot"}


@dataclass(frozen=True)
class Uploaded:
    """The result of an upload below `prefix`: files sent, and the total size in 10^9 bytes, which sets timeouts."""

    prefix: str
    num_sent: int
    weights_gb: float


def upload_model(
    directory: Path, prefix: str, s3: Any, progress: Progress, *, code: UserCode | None = None
) -> Uploaded:
    """Copy a model directory to `prefix`, and `code` to where the container runs it.

    Files already in S3 with the same SHA-256 are not sent again. If the directory has safetensors, other weight formats
    are left out. Warns of code in the directory itself if there is no `code`. Raises `SpecError` for an unusable
    directory or prefix.
    """
    opaque = code is not None and code.owns_model
    files = dict(model_files(directory, opaque=opaque))
    if code is None:
        for warning in code_warnings(files):
            progress.warn(warning)
        return _upload(files, prefix, s3, progress)
    code.refuse_hidden(directory)
    for key in sorted(files.keys() & code.files().keys()):
        if not files[key].samefile(code.files()[key]):
            progress.warn(f"{files[key]} is replaced by the file of the same name in {code.directory}")
    return _upload(files | code.files(), prefix, s3, progress)


def upload_code(code: UserCode, prefix: str, s3: Any, progress: Progress) -> Uploaded:
    """Copy `code` alone to `prefix`, for a model that lies elsewhere. Raises `SpecError` for an unusable prefix."""
    return _upload(code.files(), prefix, s3, progress)


def _upload(files: dict[str, Path], prefix: str, s3: Any, progress: Progress) -> Uploaded:
    bucket, base = _bucket_and_base(prefix)
    sent = 0
    for i, (key, path) in enumerate(sorted(files.items()), 1):
        progress.status(f"{i}/{len(files)} {key}, {path.stat().st_size / 1e9:.2f} GB")
        sent += _send(path, bucket, base + key, s3)
    progress.step(f"{sent} of {len(files)} files sent to s3://{bucket}/{base}, the others were already there")
    total = sum(path.stat().st_size for path in files.values())
    return Uploaded(f"s3://{bucket}/{base}", sent, total / 1e9)


def code_warnings(keys: Iterable[str]) -> Iterator[str]:
    """Yield a sentence if files of the model hold code: the container runs it only if it may."""
    found = sorted(key for key in keys if key in _CUSTOM_CODE or key.startswith("code/"))
    if found:
        yield (
            f"{', '.join(found)}: the container runs code and installs packages only with --trust-custom-code; else it "
            "logs these names at start, or refuses to start with REFUSE_CUSTOM_CODE=true"
        )


def model_files(directory: Path, *, opaque: bool = False) -> Iterator[tuple[str, Path]]:
    """Yield key and path of each file to upload. Raises `SpecError` if `directory` is not a model directory.

    An `opaque` one is read by the user's code alone, and may hold anything.
    """
    if not opaque and not (directory / "config.json").is_file() and not list(directory.glob("*.gguf")):
        raise SpecError(f"{directory} has neither a config.json nor a .gguf file")
    safetensors = not opaque and any(directory.glob("*.safetensors"))
    for path in walk(directory):
        if safetensors and path.suffix in _OTHER_FORMATS:
            continue
        yield path.relative_to(directory).as_posix(), path


def _send(path: Path, bucket: str, key: str, s3: Any) -> bool:
    """Send unless S3 has the file. Its SHA-256 is in our metadata: the ETag of a multipart upload is not a hash."""
    digest = _digest(path)
    if _digest_in_s3(bucket, key, s3) == digest:
        return False
    s3.upload_file(str(path), bucket, key, ExtraArgs={"Metadata": {"sha256": digest}})
    return True


def _digest_in_s3(bucket: str, key: str, s3: Any) -> str | None:
    try:
        metadata: dict[str, str] = s3.head_object(Bucket=bucket, Key=key)["Metadata"]
    except ClientError as exc:
        if exc.response["Error"]["Code"] in ("404", "NoSuchKey", "403"):
            return None
        raise
    return metadata.get("sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bucket_and_base(prefix: str) -> tuple[str, str]:
    if not prefix.startswith("s3://") or not prefix.removeprefix("s3://").partition("/")[0]:
        raise SpecError(f"{prefix!r} must be s3://bucket/prefix/")
    bucket, _, base = prefix.removeprefix("s3://").partition("/")
    return bucket, base.rstrip("/") + "/" if base.rstrip("/") else ""
