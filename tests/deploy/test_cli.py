"""The commands, from their arguments to what they print, on moto and the container that really runs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.checking.local_run import LocalOptions
from sagemaker_deploy.cli import commands
from tests.deploy.conftest import IMAGE, ROLE
from tests.deploy.shell import Shell
from tests.deploy.stubs import Script

ROOT = Path(__file__).resolve().parents[2]
SPEC = ["llm", "--image", IMAGE, "--role", ROLE, "--instance-type", "ml.g6.2xlarge", "--model-id", "org/model"]


@pytest.fixture
def shell(served: Clients) -> Shell:
    return Shell(served)


def test_an_endpoint_from_deploy_to_delete(shell: Shell) -> None:
    assert shell("deploy", *SPEC, "--way", "boto3", "--no-preflight") == 0
    assert shell.json["endpoint"] == "llm"
    assert "endpoint llm" in shell.err
    assert shell("deploy", *SPEC, "--way", "boto3", "--no-preflight") == 0
    assert "already serves this specification" in shell.err
    assert shell("autoscale", "llm", "--max", "4", "--protect") == 0
    assert shell.json["policies"] == ["llm-in-flight"]
    assert shell("status", "llm") == 0
    assert shell.json["status"] == "InService"
    assert shell.json["scaling"][0]["maximum"] == 4
    assert shell("logs", "llm") == 0
    assert shell("delete", "llm") == 0
    assert shell.json["removed"][:2] == ["endpoint/llm/variant/AllTraffic", "llm"]
    assert shell("delete", "llm") == 0
    assert shell.json["removed"] == []
    assert shell("status", "llm") == 1
    assert "there is no endpoint llm" in shell.err


def test_calls(shell: Shell, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}))
    assert shell("invoke", "llm", "--body", str(body)) == 0
    text = shell.json["choices"][0]["message"]["content"]
    assert shell("invoke", "llm", "--body", str(body), "--stream") == 0
    assert shell.out.rstrip("\n") == text.rstrip("\n")
    assert shell("invoke", "llm", "--prompt", "hi", "--max-tokens", "4") == 0
    assert shell.json["usage"]["completion_tokens"] <= 4
    assert shell("invoke", "llm", "--openai", "--component", "llm-model") == 0
    assert shell.out.startswith("OPENAI_BASE_URL=https://runtime.sagemaker.us-east-1.amazonaws.com/endpoints/llm/")
    assert "OPENAI_API_KEY=sagemaker-api-key-" in shell.out


def test_an_asynchronous_call(shell: Shell, served: Clients) -> None:
    served["s3"].create_bucket(Bucket="fake-runtime")
    assert shell("async", "llm", "--prompt", "hi", "--max-tokens", "4", "--wait-s", "60") == 0
    assert shell.json["choices"]


@pytest.mark.parametrize(
    ("content", "words", "says"),
    [
        ("", [], "either --prompt or --body"),
        ("{", ["--body", "FILE"], "is not a JSON file"),
        ("[]", ["--body", "FILE"], "does not contain a JSON object"),
        ('{"messages": 1}', ["--body", "FILE"], "messages"),
    ],
)
def test_a_wrong_body_is_named(content: str, words: list[str], says: str, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_text(content)
    refused_here = says != "messages"
    assert shell("invoke", "llm", *[word.replace("FILE", str(file)) for word in words]) == (2 if refused_here else 1)
    assert says in shell.err


def test_the_plan_shows_the_exact_requests_and_covers_secrets(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hf_secret")
    offline = ["--region", "us-east-1", "plan", *SPEC, "--offline", "--json", "--hf-token-from", "MY_TOKEN"]
    assert shell(*offline) == 0
    plan = shell.json
    assert plan["requests"]["CreateModel"]["PrimaryContainer"]["Environment"]["HF_TOKEN"] == "********"
    assert "hf_secret" not in shell.out + shell.err
    assert list(plan["requests"]) == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    assert "instance-hour" in plan["cost"]
    assert {statement["Sid"] for statement in plan["caller_policy"]["Statement"]} >= {"HandOverRole", "Endpoints"}
    assert "DescribeModel" in shell.err


def test_the_plan_weighs_the_model_and_reads_the_quota(boto_session: Any, tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64}
    config |= {"num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256, "torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    quota = {"QuotaName": "ml.g6.2xlarge for endpoint usage", "Value": 0.0}
    quotas = Script("service-quotas").answer("list_service_quotas", {"Quotas": [quota]}, {"ServiceCode": "sagemaker"})
    shell = Shell(Clients(boto_session, overrides={"service-quotas": quotas.client}))
    assert shell("plan", *SPEC, "--json", "--model-dir", str(tmp_path)) == 0
    quotas.finished()
    assert shell.json["fit"].startswith("does not fit ml.g6.2xlarge")
    assert "fits ml." in shell.json["recommended"]
    assert "ResourceLimitExceeded" in shell.err


def test_image_commands_build_what_the_dockerfile_knows(shell: Shell) -> None:
    uri = IMAGE.partition("@")[0] + ":1"
    assert shell("image", uri, "--torch", "cpu") == 0
    build = shell.out.splitlines()[-1]
    for flag in ("linux/amd64", "--provenance=false", "--sbom=false", "oci-mediatypes=false", "TORCH=cpu"):
        assert flag in build
    argument = build.partition("--build-arg ")[2].partition("=")[0]
    assert f"\nARG {argument}=" in (ROOT / "Dockerfile").read_text()
    assert shell("image", "docker.io/x/y:1") == 2
    assert "private ECR repository" in shell.err


def test_a_role_is_made_brought_up_to_date_and_removed(shell: Shell, served: Clients) -> None:
    make = ["role", "endpoint", "--image", IMAGE, "--read", "s3://weights/llm/", "--write", "s3://answers/"]
    assert shell(*make) == 0
    assert shell.out.strip() == ROLE
    assert shell(*make, "--vpc") == 0
    assert "already exists" in shell.err
    policy = served["iam"].get_role_policy(RoleName="endpoint", PolicyName="tgi-heir-endpoint")["PolicyDocument"]
    by_sid = {statement["Sid"]: statement for statement in policy["Statement"]}
    assert by_sid["ReadWeights0"]["Resource"] == ["arn:aws:s3:::weights/llm/*"]
    assert "Network" in by_sid
    assert shell("role", "endpoint", "--delete") == 0
    assert shell("role", "endpoint", "--delete") == 0
    assert served["iam"].list_roles()["Roles"] == []


def test_weights_and_code_go_up_once(shell: Shell, served: Clients, tmp_path: Path) -> None:
    model, code = tmp_path / "model", tmp_path / "code"
    for path in (model / "sub", code):
        path.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"w" * 1000)
    (model / "pytorch_model.bin").write_bytes(b"w" * 1000)
    (code / "inference.py").write_text("def predict_fn(data, model): ...\ndef output_func(a, b): ...\n")
    served["s3"].create_bucket(Bucket="weights")
    command = ["upload", str(model), "s3://weights/llm", "--code", str(code)]
    assert shell(*command) == 0
    assert shell.json["model_s3"] == "s3://weights/llm/"
    assert f"{code}/inference.py line 2: output_func is never called; is output_fn meant?" in shell.err
    assert "inference.py runs if it is deployed with --trust-custom-code" in shell.err
    keys = [item["Key"] for item in served["s3"].list_objects_v2(Bucket="weights")["Contents"]]
    assert keys == ["llm/code/inference.py", "llm/config.json", "llm/model.safetensors"]
    assert shell(*command) == 0
    assert "0 of 3 files sent" in shell.err
    assert shell("upload", str(tmp_path), "s3://weights/llm") == 2
    assert "neither a config.json nor" in shell.err


def test_the_running_container_keeps_the_platforms_rules(shell: Shell, container_url: str) -> None:
    assert shell("check", container_url) == 0, shell.out
    assert shell.out.count("ok") >= 10


def test_a_container_that_breaks_them_is_told_which(shell: Shell, served: Clients) -> None:
    """moto's server answers any path, with anything but what SageMaker expects."""
    assert shell("check", served["s3"].meta.endpoint_url) == 3
    assert "broken" in shell.out


@pytest.mark.parametrize(
    ("words", "mounted", "environment"),
    [
        ([], None, {}),
        (["--model", "org/m", "--env", "A=1"], None, {"HF_MODEL_ID": "org/m", "A": "1"}),
        (["--model", "big"], "big", {}),
        (["--model", "big/m.gguf"], "big", {"HF_MODEL_ID": "/opt/ml/model/m.gguf"}),
    ],
)
def test_local_takes_the_same_models(
    words: list[str],
    mounted: str | None,
    environment: dict[str, str],
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "big").mkdir()
    for name in ("config.json", "model.safetensors", "m.gguf"):
        (tmp_path / "big" / name).write_text("{}")
    seen: list[LocalOptions] = []
    monkeypatch.setattr(commands, "check_locally", lambda options, progress: seen.append(options) or [])
    assert shell("local", "image:1", *words) == 0
    assert (seen[0].model, seen[0].environment) == (Path(mounted) if mounted else None, environment)


def test_a_model_that_cannot_be_run_or_sent_from_here_is_named(shell: Shell) -> None:
    assert shell("local", "image:1", "--model", "s3://bucket/m/") == 2
    assert "Docker cannot mount" in shell.err
    assert shell("local", "image:1", "--model", "org/m", "--env", "HF_MODEL_ID=org/n") == 2
    assert "name the model twice" in shell.err
    assert shell("upload", "org/m", "s3://weights/m/") == 2
    assert "hf download org/m" in shell.err


def test_local_needs_docker(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert shell("local", "image:1") == 1
    assert "docker is not installed" in shell.err
    assert "check URL" in shell.err


def test_an_aws_refusal_is_a_sentence_and_a_remedy(shell: Shell, served: Clients) -> None:
    assert shell("deploy", *SPEC, "--way", "boto3") == 1, "the image is not in moto's registry"
    assert "could not be inspected" in shell.err
    assert "remedy" in shell.err


def test_both_entry_points_lead_to_the_command() -> None:
    place = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["sagemaker-deploy"]
    module, _, function = place.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    arguments = [sys.executable, "-m", "sagemaker_deploy", "--help"]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    for name in ("plan", "image", "role", "upload", "deploy", "autoscale", "async", "status", "logs", "invoke"):
        assert name in shown
