"""What `--model` names: a Hub id, a local directory or GGUF file, or the same in S3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.spec import MAX_NAME_LENGTH

MOUNT = "/opt/ml/model"  # where SageMaker puts the files of a prefix
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_MAX_HUB_ID = 96  # the Hub's own limit
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


class ModelKind(StrEnum):
    """Where the weights are; the value is what people call it."""

    HUB = "Hub id"
    LOCAL = "local directory"
    S3 = "S3 prefix"
    BUNDLED = "model in the image"


@dataclass(frozen=True)
class ModelReference:
    """`location` is a Hub id, a directory, or a prefix that ends with "/"; `file` is the GGUF file in it, if any.

    Of the model in the image, `location` is its path there, "" for the default one.
    """

    kind: ModelKind
    location: str = ""
    file: str = ""

    @property
    def text(self) -> str:
        """The model as the user may write it."""
        if self.kind is ModelKind.LOCAL and self.file:
            return str(Path(self.location) / self.file)
        return self.location + self.file

    @property
    def title(self) -> str:
        """The last part of the name, which often tells the model's size."""
        return self.file or self.location.rstrip("/").rpartition("/")[2]

    @property
    def endpoint_name(self) -> str:
        """A name for the endpoint, "" if the model has none."""
        words = re.sub(r"[^a-z0-9]+", "-", self.title.removesuffix(".gguf").lower())
        return words.strip("-")[:MAX_NAME_LENGTH].strip("-")

    @property
    def container_path(self) -> str:
        """HF_MODEL_ID for the container: the Hub id, a path in the image or in the mount, "" for all of the mount."""
        if self.kind in (ModelKind.HUB, ModelKind.BUNDLED):
            return self.location
        return f"{MOUNT}/{self.file}" if self.file else ""

    @property
    def source(self) -> str:
        """Where the files are read; a part of the mount that is no file is a directory."""
        is_directory = self.kind is ModelKind.S3 and self.file and not self.file.endswith(".gguf")
        return f"{self.text}/" if is_directory else self.text


def parse_model(text: str) -> ModelReference:
    """Return what `text` names. A directory that exists wins over a Hub id, as in transformers.

    Raises `SpecError` in one sentence if it is none of the three.
    """
    if text.startswith("s3://"):
        return _in_s3(text)
    path = Path(text).expanduser()
    if path.is_dir():
        return _directory(path)
    if path.is_file():
        return _file(path)
    if re.match(r"[a-z][a-z0-9+.-]*://", text):
        raise SpecError(f"model {text!r} is a web address; give its Hub id (organisation/name)")
    if text.startswith(("/", ".", "~")) or text.endswith((".gguf", "/")):
        raise SpecError(f"model {text!r} does not exist here")
    if not _HUB_ID.fullmatch(text) or len(text) > _MAX_HUB_ID:
        raise SpecError(f"model {text!r} is neither a directory here, nor s3://…, nor a Hub id (organisation/name)")
    return ModelReference(ModelKind.HUB, text)


def _in_s3(uri: str) -> ModelReference:
    if not re.fullmatch(r"s3://[^/\s]+(/\S*)?", uri):
        raise SpecError(f"model {uri!r} must be s3://bucket/prefix/")
    if uri.endswith(_ARCHIVES):
        raise SpecError(f"model {uri!r} is an archive; give the prefix of the unpacked files, which `upload` makes")
    if uri.endswith(".gguf"):
        prefix, _, file = uri.rpartition("/")
        return ModelReference(ModelKind.S3, f"{prefix}/", file)
    if uri.endswith((".safetensors", ".json", ".bin")):
        raise SpecError(f"model {uri!r} is one file; give the prefix that holds all files of the model")
    return ModelReference(ModelKind.S3, uri.rstrip("/") + "/")


def _directory(path: Path) -> ModelReference:
    found = sorted(file.name for file in path.glob("*.gguf"))
    has_config = (path / "config.json").is_file()
    if has_config and (not found or any(path.glob("*.safetensors"))):
        return ModelReference(ModelKind.LOCAL, str(path))
    if not found:
        raise SpecError(f"model {str(path)!r} has neither a config.json nor a .gguf file")
    if len(found) > 1:
        raise SpecError(f"model {str(path)!r} has {len(found)} .gguf files; name one, such as {path / found[0]}")
    return ModelReference(ModelKind.LOCAL, str(path), found[0])


def _file(path: Path) -> ModelReference:
    if path.suffix != ".gguf":
        raise SpecError(f"model {str(path)!r} is a file; give the directory of the model, or a .gguf file")
    return ModelReference(ModelKind.LOCAL, str(path.parent), path.name)
