"""The documents' and the examples' code, run as it stands, against moto and the container that really runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import boto3
import pytest

from sagemaker_deploy import deployment
from sagemaker_deploy.sdk_v2 import sdk_major
from tests.deploy.conftest import IMAGE, ROLE, needs_sdk_2

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


@needs_sdk_2
@pytest.mark.usefixtures("everything_offline")
def test_the_seed_example_with_the_sdk(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for block in blocks("docs/deploy.md") if "HuggingFaceModel" in block]
    exec(compile(code, "docs/deploy.md", "exec"), {})
    assert capsys.readouterr().out.strip()
    assert left_behind() == []


@pytest.mark.usefixtures("everything_offline", "no_registry")
def test_the_example_with_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for block in blocks("docs/deploy.md") if "import Clients" in block]
    space: dict[str, Any] = {}
    exec(compile(code, "docs/deploy.md", "exec"), space)
    assert capsys.readouterr().out.strip()
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
def test_the_script_and_that_it_cleans_up(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile((ROOT / "examples/deploy.py").read_text(), "examples/deploy.py", "exec"), space)
    arguments = ["--image", IMAGE, "--role", ROLE]
    assert space["main"](arguments) == 0
    before, _, streamed = capsys.readouterr().out.partition("\n---\n")
    assert before
    assert streamed.strip()
    space["QUESTION"]["messages"] = "no list"
    with pytest.raises(Exception, match="messages"):
        space["main"](arguments)
    assert left_behind() == []


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
def test_terraforms_own_format() -> None:
    """Also reads the file, so that a syntax error is found."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    command = ["terraform", "fmt", "-check", "-diff", str(TERRAFORM)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    shutil.which("terraform") is None or "TERRAFORM_PLUGIN_DIR" not in os.environ,
    reason="TERRAFORM_PLUGIN_DIR names no directory with the AWS provider",
)
def test_terraform_validates_the_example(tmp_path: Path) -> None:
    shutil.copy(TERRAFORM, tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "TF_CLI_CONFIG_FILE"}
    for command in (["init", "-backend=false", f"-plugin-dir={os.environ['TERRAFORM_PLUGIN_DIR']}"], ["validate"]):
        done = subprocess.run(
            ["terraform", *command], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
