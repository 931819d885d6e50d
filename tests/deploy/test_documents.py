"""The documents' and the examples' code, run as it stands, against moto and the container that really runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from sagemaker_deploy import deployment
from sagemaker_deploy.cli.code_argument import code_of
from sagemaker_deploy.cli.endpoint_commands import deploy, plan
from sagemaker_deploy.cli.main import build_parser
from sagemaker_deploy.cli.model_argument import model_of
from sagemaker_deploy.request.requests import model_data_source
from sagemaker_deploy.sdk_v2 import sdk_major
from tests.deploy.conftest import IMAGE, REGION, ROLE, needs_sdk_2
from tests.fakes.sagemaker_runtime import FakeSageMakerRuntime

ROOT = Path(__file__).resolve().parents[2]
TERRAFORM = ROOT / "examples/terraform/main.tf"


def blocks(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto has no layers to look into, so the look into ECR, tested elsewhere, is left out."""
    monkeypatch.setattr(deployment, "resolve", lambda spec, clients, progress: spec)


def left_behind() -> list[Any]:
    sagemaker = boto3.client("sagemaker")
    return [*sagemaker.list_endpoints()["Endpoints"], *sagemaker.list_models()["Models"]]


@pytest.fixture
def calls(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """(operation, body) of all that code with boto3's default session asks of AWS, as it is sent.

    The SDK sleeps for half a minute before it looks at an endpoint for the first time; moto's is there at once. STS is
    the one service whose address it sets itself.
    """
    import sagemaker.session

    monkeypatch.setattr(sagemaker.session, "time", SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None}))
    seen: list[tuple[str, Any]] = []
    session = boto3.Session()
    session.events.register("before-call", lambda model, params, **_: seen.append((model.name, params["body"])))
    session.events.register("before-send.sts", lambda request, **_: setattr(request, "url", f"{moto_url}/"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
    return seen


def body_of(operation: str, calls: list[tuple[str, Any]]) -> Any:
    (body,) = [body for name, body in calls if name == operation]
    return json.loads(body)


def answers(runtime: FakeSageMakerRuntime) -> list[str]:
    """The texts of the container's chat answers so far: it samples, so an empty one is possible."""
    texts = []
    for call in runtime.calls:
        streamed = call.headers.get_content_type() == "text/event-stream"
        events = re.findall(rb"^data: (\{.*)$", call.received, re.MULTILINE) if streamed else [call.received]
        choices = [choice for event in events for choice in json.loads(event)["choices"]]
        texts.append("".join(choice["delta" if streamed else "message"].get("content") or "" for choice in choices))
    return texts


def sdk_example(index: int) -> str:
    return [block for block in blocks("docs/deploy.md") if "HuggingFaceModel" in block][index]


@needs_sdk_2
@pytest.mark.usefixtures("everything_offline")
def test_the_seed_example_with_the_sdk(
    calls: list[tuple[str, Any]], runtime: FakeSageMakerRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    """As printed: an answer from the container, nothing asked of S3 or STS, nothing left."""
    exec(compile(sdk_example(0), "docs/deploy.md", "exec"), {})
    (answer,) = answers(runtime)
    assert capsys.readouterr().out.endswith(f"{answer}\n")
    assert [name for name, _ in calls] == [
        *("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "DescribeEndpoint", "InvokeEndpoint"),
        *("DescribeEndpoint", "DescribeEndpointConfig", "DeleteModel", "DeleteEndpointConfig", "DeleteEndpoint"),
    ]
    container = body_of("CreateModel", calls)["PrimaryContainer"]
    assert container["Image"].endswith("/tgi-heir:0.2.0")
    assert "ModelDataUrl" not in container
    ours = {"HF_MODEL_ID": "Qwen/Qwen3-8B", "HF_MODEL_QUANTIZE": "auto"}
    theirs = {"SAGEMAKER_PROGRAM": "", "SAGEMAKER_SUBMIT_DIRECTORY": "", "SAGEMAKER_CONTAINER_LOG_LEVEL": "20"}
    assert container["Environment"] == ours | theirs | {"SAGEMAKER_REGION": REGION}
    (variant,) = body_of("CreateEndpointConfig", calls)["ProductionVariants"]
    assert variant["ContainerStartupHealthCheckTimeoutInSeconds"] == 1200
    assert left_behind() == []


@needs_sdk_2
@pytest.mark.usefixtures("everything_offline")
def test_what_the_seed_example_says_of_code_location(calls: list[tuple[str, Any]]) -> None:
    """Without it the SDK asks who is calling and makes a bucket."""
    without = re.sub(r"^ *code_location=.*\n", "", sdk_example(0), flags=re.MULTILINE)
    assert without != sdk_example(0)
    exec(compile(without, "docs/deploy.md", "exec"), {})
    assert {"GetCallerIdentity", "CreateBucket"} <= {name for name, _ in calls}


@needs_sdk_2
@pytest.mark.usefixtures("everything_offline")
def test_the_example_with_weights_from_s3(
    calls: list[tuple[str, Any]], runtime: FakeSageMakerRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    space: dict[str, Any] = {}
    exec(compile(sdk_example(1), "docs/deploy.md", "exec"), space)
    (answer,) = answers(runtime)
    assert capsys.readouterr().out.endswith(f"{answer}\n")
    model = body_of("CreateModel", calls)
    assert model["EnableNetworkIsolation"] is True
    assert model["PrimaryContainer"]["ModelDataSource"] == model_data_source("s3://my-weights/qwen3-8b/")
    (variant,) = body_of("CreateEndpointConfig", calls)["ProductionVariants"]
    assert variant["ModelDataDownloadTimeoutInSeconds"] == 600
    assert not {"GetCallerIdentity", "CreateBucket", "PutObject"} & {name for name, _ in calls}
    assert left_behind() == []


def shell_lines() -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for kind, fence in fences if not kind for line in fence.splitlines()]
    return [line for line in lines if line.startswith("sagemaker-deploy ")]


@pytest.mark.parametrize("line", shell_lines())
def test_the_commands_are_commands(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`…` stands for the options that an endpoint always needs; a model and code are such as can be meant."""
    monkeypatch.chdir(ROOT)
    needed = f"--image {IMAGE} --role {ROLE} --instance-type ml.g6.2xlarge"
    args = build_parser().parse_args(shlex.split(line.replace("…", needed), comments=True)[1:])
    if args.command in (plan, deploy):
        assert model_of(args, code_of(args)).location


@pytest.mark.usefixtures("everything_offline", "no_registry")
def test_the_example_with_the_library(runtime: FakeSageMakerRuntime, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for block in blocks("docs/deploy.md") if "import Clients" in block]
    space: dict[str, Any] = {}
    exec(compile(code, "docs/deploy.md", "exec"), space)
    answer, streamed = answers(runtime)
    assert capsys.readouterr().out == f"{answer}\n{streamed}"
    kind = type(space["endpoint"].predictor).__name__
    assert kind == ("HuggingFacePredictor" if sdk_major() == 2 else "EndpointClient")
    assert left_behind() == []


@pytest.mark.usefixtures("everything_offline", "no_registry")
def test_the_notebooks_cells() -> None:
    cells = json.loads((ROOT / "examples/deploy.ipynb").read_text())["cells"]
    space: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "a notebook is committed without outputs"
            exec(compile(cell["source"], cell["id"], "exec"), space)
    assert space["answer"]["choices"]
    assert left_behind() == []


@pytest.mark.usefixtures("everything_offline", "no_registry")
def test_the_script_and_that_it_cleans_up(runtime: FakeSageMakerRuntime, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile((ROOT / "examples/deploy.py").read_text(), "examples/deploy.py", "exec"), space)
    arguments = ["--image", IMAGE, "--role", ROLE]
    assert space["main"](arguments) == 0
    answer, streamed = answers(runtime)
    assert capsys.readouterr().out == f"{answer}\n---\n{streamed}\n"
    space["QUESTION"]["messages"] = "no list"
    with pytest.raises(Exception, match="messages"):
        space["main"](arguments)
    assert left_behind() == []


@pytest.mark.needs("terraform")
def test_terraforms_own_format() -> None:
    """Also reads the file, so that a syntax error is found."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    command = ["terraform", "fmt", "-check", "-diff", str(TERRAFORM)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("terraform_plugins")
def test_terraform_validates_the_example(tmp_path: Path) -> None:
    shutil.copy(TERRAFORM, tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "TF_CLI_CONFIG_FILE"}
    for command in (["init", "-backend=false", f"-plugin-dir={os.environ['TERRAFORM_PLUGIN_DIR']}"], ["validate"]):
        done = subprocess.run(
            ["terraform", *command], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
