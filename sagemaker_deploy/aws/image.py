"""The image: how to build and push it, and whether SageMaker will accept what was pushed.

SageMaker refuses OCI manifests and indexes, which `docker buildx` writes by default; CreateModel reports that. Other
faults show only minutes later, as a container that never answers.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.errors import PreflightError, SpecError
from sagemaker_deploy.failures import KNOWN_FAILURES

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
BIND_LABEL = "com.amazonaws.sagemaker.capabilities.accept-bind-to-port"
CUDA_LABEL = "com.amazonaws.sagemaker.inference.cuda.verified_versions"
TORCH_LABEL = "tgi-heir.torch"
TORCH_TARGETS = ("cu126", "cu130", "cpu")
_URI = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/"
    r"(?P<repository>[a-z0-9._/-]+?)(?:@(?P<digest>sha256:[0-9a-f]{64})|:(?P<tag>[\w.-]+))?"
)
_REMEDIES = {failure.name: failure.remedy for failure in KNOWN_FAILURES}


@dataclass(frozen=True)
class ImageName:
    """The parts of an ECR image URI; `digest` or `tag` may be empty."""

    account: str
    region: str
    repository: str
    digest: str
    tag: str

    @classmethod
    def parse(cls, uri: str) -> ImageName:
        """Parse a URI. Raises `SpecError` unless it is a private ECR image; others would need further settings."""
        match = _URI.fullmatch(uri)
        if match is None:
            raise SpecError(
                f"{uri!r} is not an image in a private ECR repository",
                remedy="push the image to ECR with the commands that `image` prints",
            )
        return cls(**{key: value or "" for key, value in match.groupdict().items()})

    @property
    def registry(self) -> str:
        suffix = ".cn" if self.region.startswith("cn-") else ""
        return f"{self.account}.dkr.ecr.{self.region}.amazonaws.com{suffix}"

    def at(self, digest: str) -> str:
        """Return the URI by digest, which always names the same bytes."""
        return f"{self.registry}/{self.repository}@{digest}"

    def ecr_id(self) -> dict[str, str]:
        """Return the image's identifier for ECR's calls."""
        return {"imageDigest": self.digest} if self.digest else {"imageTag": self.tag or "latest"}


@dataclass(frozen=True)
class ImageReport:
    """The result of inspecting an image in ECR; `uri` is by digest. An image with problems will not start."""

    uri: str
    size_bytes: int
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    cuda: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    def raise_for_problems(self) -> None:
        """Raise `PreflightError` with all problems, if there are any."""
        if self.problems:
            raise PreflightError("the image will not run on SageMaker: " + "; ".join(self.problems))


def region_warning(uri: str, region: str) -> str:
    """Return a warning if the image is in another region than the endpoint, "" if it is not."""
    there = ImageName.parse(uri).region
    if there == region:
        return ""
    return (
        f"the image is in {there} and the endpoint in {region}: SageMaker pulls images of its own region; copy it there"
    )


def build_commands(
    uri: str, context: str = ".", dockerfile: str = "Dockerfile", torch: str = TORCH_TARGETS[0]
) -> list[str]:
    """Return the shell commands that log in, build and push an image that SageMaker accepts.

    `torch` is one of `TORCH_TARGETS`, the Dockerfile's build argument; raises `SpecError` for another value.
    """
    if torch not in TORCH_TARGETS:
        raise SpecError(f"torch {torch!r} must be one of {', '.join(TORCH_TARGETS)}")
    name = ImageName.parse(uri)
    return [
        f"aws ecr describe-repositories --region {name.region} --repository-names {name.repository} || "
        f"aws ecr create-repository --region {name.region} --repository-name {name.repository}",
        f"aws ecr get-login-password --region {name.region} | "
        f"docker login --username AWS --password-stdin {name.registry}",
        "docker buildx build --platform linux/amd64 --provenance=false --sbom=false "
        f"--output type=image,name={uri},oci-mediatypes=false,push=true "
        f"--build-arg TORCH={torch} -f {dockerfile} {context}",
    ]


def inspect_image(uri: str, clients: Clients) -> ImageReport:
    """Inspect a pushed image: manifest type, platform, entry point, labels, CUDA.

    Raises `PreflightError` if the image does not exist or the caller may not read it.
    """
    name = ImageName.parse(uri)
    try:
        detail = _describe(name, clients["ecr"])
        media_type = str(detail.get("imageManifestMediaType", DOCKER_MANIFEST))
        digest_uri = name.at(detail["imageDigest"])
        size = int(detail.get("imageSizeInBytes", 0))
        if media_type != DOCKER_MANIFEST:
            problem = f"manifest type {media_type} is refused; {_REMEDIES['manifest-type']}"
            return ImageReport(digest_uri, size, (problem,))
        config = _image_config(name, clients["ecr"])
    except ClientError as exc:
        raise PreflightError(f"the image {uri} could not be inspected: {exc}", remedy=_REMEDIES["pull"]) from exc
    inner = config.get("config", {})
    problems, warnings = tuple(config_problems(config)), tuple(config_warnings(inner))
    return ImageReport(digest_uri, size, problems, warnings, cuda_release(inner), dict(inner.get("Labels") or {}))


def cuda_release(inner: dict[str, Any]) -> str:
    """Return the CUDA release in an image's configuration, else "".

    Sources, in order: AWS's label, this project's label ("cu130" is 13.0), NVIDIA's CUDA_VERSION variable.
    """
    variables = dict(entry.partition("=")[::2] for entry in inner.get("Env") or ())
    labels = inner.get("Labels") or {}
    torch = re.fullmatch(r"cu(\d+)(\d)", labels.get(TORCH_LABEL, ""))
    ours = f"{torch[1]}.{torch[2]}" if torch else ""
    return str(labels.get(CUDA_LABEL) or ours or variables.get("CUDA_VERSION", ""))


def config_problems(config: dict[str, Any]) -> Iterator[str]:
    """Yield what keeps the image from starting on SageMaker, from its configuration."""
    platform = f"{config.get('os', 'linux')}/{config.get('architecture', '?')}"
    if platform != "linux/amd64":
        yield f"platform {platform} cannot run (exec format error); {_REMEDIES['architecture']}"
    entry = config.get("config", {}).get("Entrypoint") or []
    if entry[:2] == ["/bin/sh", "-c"]:
        yield (
            "the entry point has the shell form, so `serve` and SIGTERM never reach the server; "
            'write it as ENTRYPOINT ["…"]'
        )
    if entry and entry[0].rsplit("/", 1)[-1] == "tini":
        yield "tini as the entry point is confused by SageMaker's `serve` argument; start the server directly"


def config_warnings(inner: dict[str, Any]) -> Iterator[str]:
    """Yield what may be intended but is usually a mistake."""
    if not inner.get("Entrypoint"):
        yield f"no entry point: an executable `serve` must be on PATH; {_REMEDIES['no-serve']}"
    if (inner.get("Labels") or {}).get(BIND_LABEL) != "true":
        yield f"pipelines and multi-container endpoints need a label: {_REMEDIES['bind-label']}"
    if "8080/tcp" not in (inner.get("ExposedPorts") or {}):
        yield "port 8080 is not exposed; SageMaker calls it anyway"
    if inner.get("User") not in (None, "", "root", "0"):
        yield f"the image runs as {inner['User']}; SageMaker expects root, other users may lack permissions"


def _describe(name: ImageName, ecr: Any) -> dict[str, Any]:
    reply = ecr.describe_images(registryId=name.account, repositoryName=name.repository, imageIds=[name.ecr_id()])
    return dict(reply["imageDetails"][0])


def _image_config(name: ImageName, ecr: Any) -> dict[str, Any]:
    """The image's configuration, a blob that ECR serves like a layer."""
    repository = {"registryId": name.account, "repositoryName": name.repository}
    images = ecr.batch_get_image(**repository, imageIds=[name.ecr_id()], acceptedMediaTypes=[DOCKER_MANIFEST])["images"]
    if not images:
        raise PreflightError(f"ECR has no manifest for {name.repository}")
    digest = json.loads(images[0]["imageManifest"])["config"]["digest"]
    url = ecr.get_download_url_for_layer(**repository, layerDigest=digest)["downloadUrl"]
    if not url.startswith(("https://", "http://")):
        raise PreflightError(f"ECR gave an unusable address for the image's configuration: {url}")
    with urllib.request.urlopen(url, timeout=30) as reply:  # noqa: S310 - the scheme was checked
        return dict(json.load(reply))
