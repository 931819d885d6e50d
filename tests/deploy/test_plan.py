"""`plan` and `deploy` with little more than a model: the page, what is missing, and what is refused."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.cli.main import build_parser
from sagemaker_deploy.stand_ins import STAND_INS
from tests.deploy.conftest import IMAGE, ROLE
from tests.deploy.shapes import LLAMA_70B
from tests.deploy.shell import Shell
from tools.plan_picture.hub import QWEN3_8B, StandInHub

NEEDED = ["--image", IMAGE, "--role", ROLE]
SECTIONS = ["MODEL", "MEMORY", "INSTANCE", "CONTAINER ENVIRONMENT", "CALLS", "MISSING", "NEXT"]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A machine without an account, a region or a network."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    return Shell()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """The Hub with one model."""
    with StandInHub(QWEN3_8B) as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        yield stand_in


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory "big" with 70 billion parameters by its config.json and a small file of weights."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "big"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(LLAMA_70B))
    (directory / "model.safetensors").write_bytes(b"x" * 2000)
    return directory


def headings(text: str) -> list[str]:
    return [
        line.split(" (")[0].split(" for ")[0].split(" that ")[0] for line in text.splitlines() if line[:1].isupper()
    ]


def check_page(text: str) -> None:
    page, _, command = text.partition("\nNEXT\n")
    assert max(map(len, page.splitlines())) <= 80
    assert "\x1b" not in text
    for stand_in in STAND_INS.values():
        assert stand_in not in text
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "sagemaker-deploy"
    build_parser().parse_args(words[1:])


@pytest.mark.usefixtures("hub")
def test_a_hub_id_is_enough(alone: Shell) -> None:
    assert alone("plan", "Qwen/Qwen3-8B") == 0
    check_page(alone.out)
    assert [
        title for title in headings(alone.out) if title != "PLAN  endpoint qwen3-8b: nothing was created"
    ] == SECTIONS
    for text in (
        "8.19 billion parameters, bfloat16, 16.4 GB",
        "config.json and the index of the safetensors files",
        "ml.g7.2xlarge (1 x RTX PRO 4500 with 32 GiB",
        "Reason      cheapest type with room for",
        "ml.g6.xlarge        1 x L4, with --quantize int4",
        "HF_MODEL_ID=Qwen/Qwen3-8B",
        "CreateModel qwen3-8b-<hash>",
        "--role      ARN",
        "--instance-type ml.g7.2xlarge --image URI --role ARN",
    ):
        assert text in alone.out, text
    assert "Assumed" not in alone.out
    assert alone.err == ""


def test_without_the_hub_the_name_tells(alone: Shell) -> None:
    assert alone("plan", "Qwen/Qwen3-8B") == 0
    check_page(alone.out)
    assert "could not be read from the Hub" in alone.out
    assert "8 billion parameters by the name" in alone.out
    assert "ml.g7.2xlarge" in alone.out


def test_a_model_that_the_hub_refuses_is_warned_of_and_not_deployed(hub: StandInHub, clients: Clients) -> None:
    """Its name tells a size all the same."""
    shell = Shell(clients)
    assert shell("plan", "Qwen/Qwen3-80B") == 0
    check_page(shell.out)
    warnings = " ".join(shell.out.partition("WARNINGS")[2].split())
    assert "! the model cannot be served: config.json of Qwen/Qwen3-80B (revision main)" in warnings
    assert "80 billion parameters by the name" in shell.out
    assert shell("deploy", "Qwen/Qwen3-80B", *NEEDED) == 1
    assert "404, it is misspelt" in shell.err
    assert {path for path, _ in hub.seen} == {"/Qwen/Qwen3-80B/resolve/main/config.json"}


@pytest.mark.parametrize("words", [["org/phi-4"], ["org/phi-4", "--offline"], ["s3://bucket/llm/"], ["--name", "llm"]])
def test_without_sizes_the_page_says_so(words: list[str], alone: Shell) -> None:
    assert alone("plan", *words) == 0
    check_page(alone.out)
    assert "the model's sizes are not known" in alone.out
    assert "--instance-type no type can be recommended" in " ".join(alone.out.split())
    assert "INSTANCE" in headings(alone.out)
    assert "<--instance-type>" in alone.out
    assert "Not read" in alone.out


@pytest.mark.parametrize(
    "words",
    [
        ["Qwen/Qwen3-8B", *NEEDED],
        ["Qwen/Qwen3-8B", "--instance-type", "ml.g6.xlarge", "--context", "40000", "--conc=64"],
        ["Qwen/Qwen3-8B", "--instance-type", "ml.c7i.2xlarge", "--quantize", "int8"],
        ["Qwen/Qwen3-8B", "--async-output", "s3://b/o", "--env", "A=b c", "--tag", "a=b"],
        ["Qwen/Qwen3-8B", "--component-memory", "32768", "--num-gpus", "1"],
        ["Qwen/Qwen3-8B", "--no-fit", "--instance-type", "ml.p5.48xlarge", "--instance-count", "3"],
        ["llm", "--model", "s3://a-very-long-bucket-name/" + "deep/" * 30, "--instance-type", "ml.g6.xlarge"],
        ["llm", "--model-s3", "s3://weights/llm/", "--network-isolation"],
        ["big", *NEEDED],
        ["--model", "big", "--name", "llm", "--upload-to", "s3://weights/llm"],
    ],
)
@pytest.mark.usefixtures("hub", "local")
def test_every_page_fits_a_terminal_and_ends_in_a_command(words: list[str], alone: Shell) -> None:
    assert alone("plan", *words) == 0, alone.err
    check_page(alone.out)
    assert alone("plan", *words, "--json") == 0
    assert alone.json["requests"]["CreateModel"]


@pytest.mark.usefixtures("hub")
def test_the_exact_requests_have_gaps_for_what_is_missing(alone: Shell, clients: Clients) -> None:
    assert alone("plan", "Qwen/Qwen3-8B", "--json") == 0
    found = alone.json
    assert found["missing"] == ["--region", "--image", "--role"]
    assert found["requests"]["CreateModel"]["ExecutionRoleArn"] == "<--role>"
    assert found["requests"]["CreateModel"]["ModelName"] == "qwen3-8b-<hash>"
    assert found["execution_policy"] is found["caller_policy"] is None
    assert found["sizes"]["parameters"] == 8190735360
    whole = Shell(clients)
    assert whole("plan", "Qwen/Qwen3-8B", "--json", *NEEDED) == 0
    assert whole.json["missing"] == []
    assert "<" not in json.dumps(whole.json["requests"])
    (variant,) = whole.json["requests"]["CreateEndpointConfig"]["ProductionVariants"]
    assert variant["InstanceType"] == "ml.g7.2xlarge"
    assert variant["ContainerStartupHealthCheckTimeoutInSeconds"] == 984
    assert {one["Sid"] for one in whole.json["caller_policy"]["Statement"]} >= {"HandOverRole"}


@pytest.mark.usefixtures("local")
def test_a_directory_is_read_and_where_it_goes_is_missing(alone: Shell) -> None:
    assert alone("plan", "big", "--json") == 0
    assert alone.json["sizes"]["parameters"] == 1000
    assert "--upload-to" in alone.json["missing"]
    container = alone.json["requests"]["CreateModel"]["PrimaryContainer"]
    assert container["ModelDataSource"]["S3DataSource"]["S3Uri"] == "<--upload-to>"
    assert "HF_MODEL_ID" not in container["Environment"]


@pytest.mark.parametrize(
    ("positional", "options", "name", "environment", "prefix"),
    [
        (["org/m-8b"], [], "m-8b", "org/m-8b", None),
        ([], ["--model", "org/m-8b"], "m-8b", "org/m-8b", None),
        (["llm"], ["--model", "org/m-8b"], "llm", "org/m-8b", None),
        (["org/m-8b"], ["--name", "llm"], "llm", "org/m-8b", None),
        (["llm"], ["--model-id", "org/m-8b"], "llm", "org/m-8b", None),
        (["llm"], ["--model-s3", "s3://b/p/"], "llm", None, "s3://b/p/"),
        (["llm"], ["--model", "s3://b/p"], "llm", None, "s3://b/p/"),
        (["llm"], ["--model", "s3://b/p/m-1b.gguf"], "llm", "/opt/ml/model/m-1b.gguf", "s3://b/p/"),
        (
            ["llm"],
            ["--model-s3", "s3://b/p/", "--model-id", "/opt/ml/model/sub"],
            "llm",
            "/opt/ml/model/sub",
            "s3://b/p/",
        ),
        (["llm"], ["--model-id", "/models/own"], "llm", "/models/own", None),
        ([], ["--name", "llm"], "llm", None, None),
    ],
)
def test_one_model_option_and_its_old_names(
    positional: list[str], options: list[str], name: str, environment: str | None, prefix: str | None, alone: Shell
) -> None:
    assert alone("plan", *positional, *options, "--json", "--offline", "--instance-type", "ml.g6.xlarge") == 0
    requests = alone.json["requests"]
    container = requests["CreateModel"]["PrimaryContainer"]
    assert requests["CreateEndpoint"]["EndpointName"] == name
    assert container["Environment"].get("HF_MODEL_ID") == environment
    source = container.get("ModelDataSource")
    assert (source and source["S3DataSource"]["S3Uri"]) == prefix


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give a model, or --name"),
        (["llm"], "give --model too if it is the endpoint's name"),
        (["llm", "--model", "org/m", "--name", "other"], "name is given twice"),
        (["--model", "org/m", "--model-id", "org/n"], "name the model twice"),
        (["--model-id", "org/m", "--model-s3", "s3://b/p/"], "exclude each other"),
        (["--model-s3", "org/m"], "must be an s3:// URI"),
        (["big", "--revision", "abc"], "--revision does nothing without a model from the Hub"),
        (["s3://b/p/", "--revision", "abc"], "--revision does nothing"),
        (["org/m", "--upload-to", "s3://b/p/"], "--upload-to does nothing without a local model"),
        (["big", "--upload-to", "bucket"], "must be s3://bucket/prefix/"),
        (["org/m-8b", "--quantize", "int8", "--instance-type", "ml.g4dn.xlarge"], "the T4 of ml.g4dn.xlarge has 7.5"),
        (["org/m-8b", "--context", "0"], "must be at least 1"),
        (["org/m-8b", "--context", "-1"], "must be at least 1"),
        (["org/m-8b", "--model-dir", "missing"], "does not exist"),
        (["org/m-8b", "--num-gpus", "9"], "num_gpus must be 0 to 8"),
    ],
)
@pytest.mark.usefixtures("local")
def test_a_mistake_is_one_sentence_and_status_2(words: list[str], says: str, alone: Shell) -> None:
    assert alone("plan", *words, "--offline") == 2
    assert says in alone.err
    assert alone.out == ""


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        *(
            ("plan org/m-8b --offline", [option, value], f"{option} does nothing without --async-output")
            for option, value in (
                *(("--async-failure", "s3://b/f"), ("--async-max-concurrent", "4")),
                *(("--success-topic", "arn"), ("--error-topic", "arn")),
            )
        ),
        *(
            ("plan org/m-8b --offline", [option, "0"], f"{option} does nothing without --component-memory")
            for option in ("--component-gpus", "--copies", "--min-instances", "--max-instances")
        ),
        *(
            ("plan org/m-8b --no-fit", [option, value], f"{option} does nothing beside --no-fit")
            for option, value in (("--context", "8"), ("--concurrency", "8"), ("--model-dir", "x"))
        ),
        ("plan org/m-8b --offline", ["--env", "A=1", "--env", "A=2"], "--env A is given twice"),
        ("plan org/m-8b --offline", ["--tag", "A"], "--tag takes KEY=VALUE"),
        ("plan org/m-8b --offline", ["--env", "PORT=80"], "SageMaker calls port 8080"),
        ("deploy org/m-8b", ["--bake-s", "0"], "--bake-s does nothing without --update"),
        ("deploy org/m-8b", ["--wait-s", "9", "--no-wait"], "exclude each other"),
        *(
            ("image 1 --inspect", [option, "cpu"], f"{option} does nothing beside --inspect")
            for option in ("--torch", "--context", "--dockerfile")
        ),
        ("role endpoint --delete", ["--image", "x"], "--image does nothing beside --delete"),
        ("role endpoint --delete", ["--vpc"], "--vpc does nothing beside --delete"),
        ("role endpoint", [], "`role` needs --image"),
        ("invoke llm --openai", ["--prompt", "hi"], "--prompt does nothing beside --openai"),
        ("invoke llm --openai", ["--stream"], "--stream does nothing beside --openai"),
        ("invoke llm --prompt hi", ["--lifetime-s", "0"], "--lifetime-s does nothing without --openai"),
        ("invoke llm --body x.json", ["--max-tokens", "0"], "--max-tokens does nothing without --prompt"),
        ("async llm --body x.json", ["--max-tokens", "9"], "--max-tokens does nothing without --prompt"),
        ("autoscale llm --max 2", ["--component", "--async"], "scale it as one of the two"),
    ],
)
def test_an_idle_option_is_refused(command: str, words: list[str], says: str, clients: Clients) -> None:
    shell = Shell(clients)
    assert shell(*command.split(), *words) == 2
    assert says in shell.err


def test_a_mistake_of_spelling_is_one_line(capsys: pytest.CaptureFixture[str], alone: Shell) -> None:
    for words in (["plan", "org/m", "--quantise", "none"], ["plan", "org/m", "--quantize", "int3"], ["plam"], []):
        with pytest.raises(SystemExit) as caught:
            alone(*words)
        assert caught.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_deploying_needs_more_than_planning(alone: Shell) -> None:
    assert alone("deploy", "Qwen/Qwen3-8B") == 2
    assert "`deploy` needs --image and --role" in alone.err
    assert "sagemaker-deploy role" in alone.err
    assert alone("deploy", "Qwen/Qwen3-8B", *NEEDED) == 2
    assert "give --region" in alone.err


def test_nothing_is_billed_on_a_guess(clients: Clients) -> None:
    shell = Shell(clients)
    assert shell("deploy", "Qwen/Qwen3-8B", *NEEDED, "--no-preflight") == 2
    assert "give --instance-type, none can be recommended: config.json of Qwen/Qwen3-8B could not be read" in shell.err
    assert clients.sagemaker.list_models()["Models"] == []


@pytest.mark.usefixtures("hub")
def test_the_recommended_type_is_deployed_if_the_sizes_were_read(clients: Clients) -> None:
    shell = Shell(clients)
    words = ["Qwen/Qwen3-8B", *NEEDED]
    assert shell("plan", *words, "--json") == 0
    planned = shell.json["requests"]
    assert shell("deploy", *words, "--way", "boto3", "--no-preflight") == 0, shell.err
    assert "ml.g7.2xlarge: the recommended type" in shell.err
    config = clients.sagemaker.describe_endpoint(EndpointName="qwen3-8b")["EndpointConfigName"]
    assert config == planned["CreateEndpointConfig"]["EndpointConfigName"], "what was planned"


@pytest.mark.usefixtures("local")
def test_a_directory_is_uploaded_and_served(clients: Clients) -> None:
    shell = Shell(clients)
    clients["s3"].create_bucket(Bucket="weights")
    assert shell("deploy", "big", *NEEDED, "--no-preflight") == 2
    assert "`deploy` needs --upload-to" in shell.err
    words = ["big", *NEEDED, "--upload-to", "s3://weights/llm", "--way", "boto3", "--no-preflight"]
    assert shell("deploy", *words) == 0, shell.err
    keys = [item["Key"] for item in clients["s3"].list_objects_v2(Bucket="weights")["Contents"]]
    assert keys == ["llm/config.json", "llm/model.safetensors"]
    (model,) = clients.sagemaker.list_models()["Models"]
    container = clients.sagemaker.describe_model(ModelName=model["ModelName"])["PrimaryContainer"]
    assert container["ModelDataSource"]["S3DataSource"]["S3Uri"] == "s3://weights/llm/"


def test_weights_in_s3_are_weighed_without_a_download(clients: Clients) -> None:
    s3 = clients["s3"]
    s3.create_bucket(Bucket="weights")
    s3.put_object(Bucket="weights", Key="llm/config.json", Body=json.dumps(LLAMA_70B))
    s3.put_object(Bucket="weights", Key="llm/a.safetensors", Body=b"x" * 600)
    s3.put_object(Bucket="weights", Key="gguf/m-8b.gguf", Body=b"x" * 600)
    read: list[Any] = []
    s3.meta.events.register("before-call.s3.GetObject", lambda params, **_: read.append(params["url_path"]))
    shell = Shell(clients)
    assert shell("plan", "s3://weights/llm", "--json") == 0
    assert shell.json["sizes"]["parameters"] == 300
    assert shell("plan", "s3://weights/gguf", "--json") == 0
    assert "no config.json directly below it; name the file: s3://weights/gguf/m-8b.gguf" in shell.json["warnings"][-1]
    assert shell("plan", "s3://weights/gguf/m-8b.gguf", "--json") == 0
    assert "8 billion" in shell.json["sizes"]["assumed"]
    assert shell("plan", "s3://weights/gguf/other-8b.gguf", "--json") == 0
    assert "does not exist" in shell.json["sizes"]["not_read"]
    assert len(read) == 1
