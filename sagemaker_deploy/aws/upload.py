"""Copies weights and handler code to S3, file by file: SageMaker mounts the prefix, so no archive is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.progress import Progress

_SKIPPED_DIRECTORIES = {".git", ".cache", "__pycache__", ".ipynb_checkpoints"}
_SKIPPED_SUFFIXES = {".pyc", ".lock", ".tmp"}
# The container names these and never runs them: handler/model/checks/custom_code.py has the same list.
_CUSTOM_CODE = ("inference.py", "handler.py", "model.py", "requirements.txt")
_OTHER_FORMATS = {".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot"}


@dataclass(frozen=True)
class Uploaded:
    """The result of an upload below `prefix`: files sent, and the total size in 10^9 bytes, which sets timeouts."""

    prefix: str
    num_sent: int
    weights_gb: float


def upload_model(directory: Path, prefix: str, s3: Any, progress: Progress, *, code: Path | None = None) -> Uploaded:
    """Copy a model directory to `prefix`, and `code` (handler functions, requirements.txt) to `prefix` + code/.

    Files already in S3 with the same SHA-256 are not sent again. If the directory has safetensors, other weight formats
    are left out. Warns of code: the container never runs it. Raises `SpecError` for an unusable directory or prefix.
    """
    bucket, base = _bucket_and_base(prefix)
    files = dict(model_files(directory))
    if code is not None:
        if not (code / "inference.py").is_file():
            raise SpecError(f"{code} has no inference.py")
        files |= {f"code/{path.relative_to(code).as_posix()}": path for path in _walk(code)}
    for warning in code_warnings(files):
        progress.warn(warning)
    sent = 0
    for i, (key, path) in enumerate(sorted(files.items()), 1):
        progress.status(f"{i}/{len(files)} {key}, {path.stat().st_size / 1e9:.2f} GB")
        sent += _send(path, bucket, base + key, s3)
    progress.step(f"{sent} of {len(files)} files sent to s3://{bucket}/{base}, the others were already there")
    total = sum(path.stat().st_size for path in files.values())
    return Uploaded(f"s3://{bucket}/{base}", sent, total / 1e9)


def code_warnings(keys: Iterable[str]) -> Iterator[str]:
    """Yield a sentence if files of the model hold code: the container ignores it, or refuses to start."""
    found = sorted(key for key in keys if key in _CUSTOM_CODE or key.startswith("code/"))
    if found:
        yield (
            f"{', '.join(found)}: the container never runs handler code and installs no packages; it logs these names "
            "at start, or refuses to start with REFUSE_CUSTOM_CODE=true"
        )


def model_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield key and path of each file to upload. Raises `SpecError` if `directory` is not a model directory."""
    if not (directory / "config.json").is_file() and not list(directory.glob("*.gguf")):
        raise SpecError(f"{directory} has neither a config.json nor a .gguf file")
    safetensors = any(directory.glob("*.safetensors"))
    for path in _walk(directory):
        if safetensors and path.suffix in _OTHER_FORMATS:
            continue
        yield path.relative_to(directory).as_posix(), path


def _walk(directory: Path) -> Iterator[Path]:
    """Files below `directory`. Follows links, because the Hub's cache consists of them."""
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        if path.is_file() and not _SKIPPED_DIRECTORIES.intersection(parts) and path.suffix not in _SKIPPED_SUFFIXES:
            yield path


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
