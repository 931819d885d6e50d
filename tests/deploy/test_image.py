"""The look into ECR before anything is created, and what it adds to the specification."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.image import BIND_LABEL, DOCKER_MANIFEST, TORCH_LABEL, build_commands, inspect_image
from sagemaker_deploy.errors import PreflightError, SpecError
from sagemaker_deploy.plan import make_plan
from sagemaker_deploy.preflight import resolve
from sagemaker_deploy.request.hosting import NEWEST_AMI
from sagemaker_deploy.request.requests import build_requests
from sagemaker_deploy.request.spec import DeploySpec
from tests.deploy.conftest import IMAGE, REGION, make_spec
from tests.deploy.shapes import QWEN3_8B
from tests.deploy.stubs import Script
from tests.deploy.transcript import Transcript
from tools.plan_picture.hub import StandInHub

DIGEST = "sha256:" + "b" * 64
BY_TAG = IMAGE.partition("@")[0] + ":1"
CONFIG: dict[str, Any] = {
    "os": "linux",
    "architecture": "amd64",
    "config": {
        "Entrypoint": ["/opt/venv/bin/python", "-m", "container.serve"],
        "Labels": {BIND_LABEL: "true", TORCH_LABEL: "cu130"},
        "ExposedPorts": {"8080/tcp": {}},
    },
}


@pytest.fixture
def blob() -> Iterator[tuple[str, dict[str, Any]]]:
    """Where ECR says the image's configuration lies; the dictionary is what lies there."""
    content: dict[str, Any] = {}

    class Layer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Layer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/blob", content
    server.shutdown()
    server.server_close()


def registry(url: str = "", media_type: str = DOCKER_MANIFEST) -> Script:
    """ECR with one image; without `url` its configuration is not asked for."""
    ecr = Script("ecr")
    detail = {"imageDigest": DIGEST, "imageManifestMediaType": media_type, "imageSizeInBytes": 675_000_000}
    ecr.answer("describe_images", {"imageDetails": [detail]})
    if url:
        manifest = json.dumps({"config": {"digest": "sha256:" + "c" * 64}})
        ecr.answer("batch_get_image", {"images": [{"imageManifest": manifest}]})
        ecr.answer("get_download_url_for_layer", {"downloadUrl": url, "layerDigest": "sha256:" + "c" * 64})
    return ecr


def looking(clients: Clients, ecr: Script) -> Clients:
    return Clients(
        clients.session, overrides={"ecr": ecr.client, "service-quotas": denied_quota(), "s3": clients["s3"]}
    )


def denied_quota() -> Any:
    return Script("service-quotas").refuse("list_service_quotas", "AccessDeniedException", "no").client


def test_a_fit_image_is_named_by_digest_and_its_cuda_chooses_the_host(
    clients: Clients, transcript: Transcript, blob: tuple[str, dict[str, Any]]
) -> None:
    url, content = blob
    content.update(CONFIG)
    ecr = registry(url)
    spec = resolve(make_spec(image=BY_TAG), looking(clients, ecr), transcript)
    ecr.finished()
    assert spec.image.endswith(f"@{DIGEST}")
    assert spec.cuda == "13.0"
    variant = build_requests(spec, REGION).endpoint_config["ProductionVariants"][0]
    assert variant["InferenceAmiVersion"] == NEWEST_AMI
    assert any("(0.7 GB)" in text for _, text in transcript.events)


def inner(**changes: Any) -> dict[str, Any]:
    return {**CONFIG, "config": {**CONFIG["config"], **changes}}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**CONFIG, "architecture": "arm64"}, "exec format error"),
        (inner(Entrypoint=["/bin/sh", "-c", "python -m x"]), "shell form"),
        (inner(Entrypoint=["/usr/bin/tini", "--"]), "tini"),
    ],
)
def test_an_image_that_cannot_run_is_refused(
    config: dict[str, Any], says: str, clients: Clients, transcript: Transcript, blob: tuple[str, dict[str, Any]]
) -> None:
    url, content = blob
    content.update(config)
    with pytest.raises(PreflightError, match=says):
        resolve(make_spec(), looking(clients, registry(url)), transcript)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (inner(Entrypoint=None), "executable `serve`"),
        (inner(Labels={}), "accept-bind-to-port"),
        (inner(ExposedPorts=None), "8080 is not exposed"),
        (inner(User="app"), "runs as app"),
    ],
)
def test_what_may_be_meant_is_warned_of(
    config: dict[str, Any], says: str, clients: Clients, transcript: Transcript, blob: tuple[str, dict[str, Any]]
) -> None:
    url, content = blob
    content.update(config)
    resolve(make_spec(), looking(clients, registry(url)), transcript)
    assert any(says in text for kind, text in transcript.events if kind == "warn")


@pytest.mark.parametrize("kind", ["index", "manifest"])
def test_an_oci_image_is_refused_with_the_flags_that_help(kind: str, clients: Clients, transcript: Transcript) -> None:
    ecr = registry(media_type=f"application/vnd.oci.image.{kind}.v1+json")
    with pytest.raises(PreflightError, match="oci-mediatypes=false"):
        resolve(make_spec(), looking(clients, ecr), transcript)
    ecr.finished()


def test_the_right_to_look_is_not_demanded(clients: Clients, transcript: Transcript) -> None:
    ecr = Script("ecr").refuse("describe_images", "AccessDeniedException", "not authorized")
    assert resolve(make_spec(), looking(clients, ecr), transcript) == make_spec()
    assert any("was not checked" in text for _, text in transcript.events)


def test_an_image_that_is_not_there(clients: Clients, transcript: Transcript) -> None:
    with pytest.raises(PreflightError, match="could not be inspected") as caught:
        inspect_image(BY_TAG, clients)
    assert "ecr:BatchGetImage" in caught.value.remedy


def test_weights_without_a_config_are_found_before_an_hour_of_loading(clients: Clients, transcript: Transcript) -> None:
    clients["s3"].create_bucket(Bucket="weights")
    ecr = Script("ecr").refuse("describe_images", "AccessDeniedException", "not authorized")
    spec = dataclasses.replace(make_spec(), model_id="", model_s3="s3://weights/llm/")
    with pytest.raises(PreflightError, match="cannot be served"):
        resolve(spec, looking(clients, ecr), transcript)


WEIGHED = {
    "/org/model/resolve/main/config.json": QWEN3_8B,
    "/org/model/resolve/main/model.safetensors.index.json": {"metadata": {"total_size": 16_400_000_000}},
}
PICKLE = {
    "/org/model/resolve/main/config.json": QWEN3_8B,
    "/api/models/org/model/tree/main": [{"type": "file", "path": "pytorch_model.bin", "size": 9}],
}


def preflight(files: dict[str, Any], clients: Clients, transcript: Transcript, **changes: Any) -> DeploySpec:
    """The specification after the checks, with a Hub that has `files`."""
    ecr = Script("ecr").refuse("describe_images", "AccessDeniedException", "not authorized")
    with StandInHub(files) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        spec = make_spec(environment=environment, **changes)
        found = resolve(spec, looking(clients, ecr), transcript)
        assert {token for _, token in hub.seen} == {f"Bearer {spec.hf_token}" if spec.hf_token else None}
    return found


def test_weights_on_the_hub_set_the_timeouts(
    clients: Clients, transcript: Transcript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "mine, which the container does not have")
    assert preflight(WEIGHED, clients, transcript).weights_gb == 16.4
    assert preflight(WEIGHED, clients, transcript, hf_token="hf_x").weights_gb == 16.4


@pytest.mark.parametrize(
    ("files", "changes", "says"),
    [
        ({}, {}, "404, it is misspelt, private or gated"),
        ({"/org/model/resolve/main/config.json": 403}, {}, "403, it is misspelt, private or gated"),
        (WEIGHED, {"revision": "v2"}, r"\(revision v2\)"),
        (PICKLE, {}, r"pytorch_model\.bin is a pickle"),
        (WEIGHED, {"quantize": "gptq"}, "for checkpoints stored that way"),
    ],
)
def test_a_model_that_cannot_be_served_is_found_before_anything_is_billed(
    files: dict[str, Any], changes: dict[str, Any], says: str, clients: Clients, transcript: Transcript
) -> None:
    with pytest.raises(PreflightError, match=rf"org/model cannot be served: .*{says}"):
        preflight(files, clients, transcript, **changes)


@pytest.mark.parametrize("config", [503, {"model_type": "mamba"}])
def test_a_hub_that_says_nothing_of_the_model_is_only_warned_of(
    config: Any, clients: Clients, transcript: Transcript
) -> None:
    assert preflight({"/org/model/resolve/main/config.json": config}, clients, transcript).weights_gb is None
    assert any("org/model was not weighed" in text for kind, text in transcript.events if kind == "warn")


def test_an_image_of_another_region_is_warned_of(clients: Clients, transcript: Transcript) -> None:
    ecr = Script("ecr").refuse("describe_images", "AccessDeniedException", "not authorized")
    there = make_spec(image=IMAGE.replace(REGION, "eu-west-1"))
    resolve(there, looking(clients, ecr), transcript)
    assert any("SageMaker pulls images of its own region" in text for _, text in transcript.events)
    assert any("of its own region" in text for text in make_plan(there, REGION).warnings)
    assert not any("of its own region" in text for text in make_plan(make_spec(), REGION).warnings)


def test_a_given_host_image_needs_no_release_of_cuda(
    clients: Clients, transcript: Transcript, blob: tuple[str, dict[str, Any]]
) -> None:
    url, content = blob
    content.update(CONFIG)
    for change in ({"ami_version": "al2-ami-sagemaker-inference-gpu-3-1"}, {"instance_type": "ml.c7i.2xlarge"}):
        assert resolve(make_spec(**change), looking(clients, registry(url)), transcript).cuda == ""


def test_an_unknown_torch_is_refused() -> None:
    with pytest.raises(SpecError, match="cu126, cu130, cpu"):
        build_commands(BY_TAG, torch="cu128")
