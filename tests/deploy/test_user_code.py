"""--code: what is read of the user's code before it is copied, where it goes, and how the container gets to run it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.upload import model_files
from sagemaker_deploy.checking.contract import check_code
from sagemaker_deploy.checking.local_run import LocalOptions, docker_arguments
from sagemaker_deploy.checking.requirement_check import check_requirements
from sagemaker_deploy.cli import commands
from sagemaker_deploy.errors import PreflightError, SpecError
from sagemaker_deploy.request.user_code import read_code
from tests.deploy.conftest import IMAGE, ROLE
from tests.deploy.shell import Shell
from tests.support.wheels import make_wheel

PREDICT = "def predict_fn(data, model): ...\n"
OWN = "def model_fn(model_dir): ...\n" + PREDICT
HANDLER = "class EndpointHandler:\n    def __init__(self, path=''): ...\n    def __call__(self, data): ...\n"

ENGINE_HANDLER = HANDLER.replace("path=''", "path='', model=None")


@pytest.fixture
def shell(clients: Clients) -> Shell:
    return Shell(clients)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    directory = tmp_path / "mine"
    directory.mkdir()
    return directory


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("README.md", "", "has none of inference.py, handler.py, model.py"),
        ("inference.py", "def predict_fn(:", "inference.py line 1 is not Python"),
        ("inference.py", "x = 1", "defines none of pre_model_fn, model_fn"),
        (
            "inference.py",
            "def predict_fn(data): ...",
            r"line 1: predict_fn is called with \(data, model\) or with context",
        ),
        ("inference.py", "def predict_fn(a, b, c, d): ...", r"and takes \(a, b, c, d\)"),
        ("inference.py", "def predict_fn(a, b, *, c): ...", r"and takes \(a, b, \*, c\)"),
        ("inference.py", "def predict_fn(a, b, c, d=1): ...", r"and takes \(a, b, c, d=1\)"),
        ("inference.py", "def pre_model_fn(model_dir): ...", "defines none of"),
        ("inference.py", "def model_fn(): ...", r"model_fn is called with \(model_dir\)"),
        ("inference.py", "async def transform_fn(m, b, c): ...", "transform_fn is called with"),
        ("inference.py", PREDICT + "def transform_fn(m, b, c, a): ...", "takes the place of predict_fn; define either"),
        ("handler.py", "class Handler: ...", "handler.py defines no class EndpointHandler"),
        ("handler.py", "class EndpointHandler:\n    x = 1", r"EndpointHandler has no __call__\(self, data\)"),
        ("handler.py", HANDLER.replace("(self, data)", "(self)"), r"__call__ is called with \(self, data\), and takes"),
        ("handler.py", HANDLER.replace("path=''", "path, other"), "__init__ is called with"),
        ("model.py", "def handle(request): ...", "defines none of custom_sagemaker_ping_handler"),
    ],
)
def test_what_the_container_could_not_run_is_refused(name: str, text: str, says: str, code: Path) -> None:
    (code / name).write_text(text)
    with pytest.raises(SpecError, match=says):
        read_code(code)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("inference.py", "def predict(data, model): ...", "is predict_fn meant by predict?"),
        ("handler.py", "class EndpointHandlr: ...", "is EndpointHandler meant by EndpointHandlr?"),
    ],
)
def test_a_name_that_is_nearly_right_is_guessed(name: str, text: str, says: str, code: Path) -> None:
    (code / name).write_text(text)
    with pytest.raises(SpecError) as caught:
        read_code(code)
    assert caught.value.remedy == says


@pytest.mark.parametrize(
    ("name", "text", "names", "owns_model"),
    [
        ("inference.py", PREDICT, {"predict_fn"}, False),
        ("inference.py", OWN, {"model_fn", "predict_fn"}, True),
        ("inference.py", "def predict_fn(a, b, context): ...", {"predict_fn"}, False),
        ("inference.py", "def predict_fn(a, b, context=None, more=1): ...", {"predict_fn"}, False),
        ("inference.py", "def predict_fn(*args): ...", {"predict_fn"}, False),
        ("inference.py", "async def predict_fn_batch(data, model): ...", {"predict_fn_batch"}, False),
        ("inference.py", "from mine import predict_fn, load as model_fn", {"predict_fn", "model_fn"}, True),
        ("inference.py", "from mine import *", set(), False),
        ("inference.py", "try:\n    import x as input_fn\nexcept E:\n    input_fn = None", {"input_fn"}, False),
        ("inference.py", "predict_fn = lambda data, model: data", {"predict_fn"}, False),
        ("handler.py", HANDLER, {"EndpointHandler"}, True),
        ("handler.py", ENGINE_HANDLER, {"EndpointHandler"}, False),
        ("model.py", "async def custom_sagemaker_ping_handler(r): ...", {"custom_sagemaker_ping_handler"}, False),
        ("model.py", "import model_hosting_container_standards.sagemaker as s\n@s.ping\ndef p(): ...", set(), False),
    ],
)
def test_what_it_could_run_is_taken(name: str, text: str, names: set[str], owns_model: bool, code: Path) -> None:
    (code / name).write_text(text)
    found = read_code(code)
    assert (found.main, found.signatures.names, found.owns_model) == (name, names, owns_model)
    assert not list(found.warnings())
    assert set(found.files()) == {f"code/{name}" if name == "inference.py" else name}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("handler.py", "class EndpointHandler(Base): ...", "has an EndpointHandler whose constructor is not in it"),
        ("inference.py", PREDICT + "def predict_fn_batch(d, m): ...", "so its predict_fn is never called"),
    ],
)
def test_what_is_probably_not_meant_is_said(name: str, text: str, says: str, code: Path) -> None:
    (code / name).write_text(text)
    (warning,) = read_code(code).warnings()
    assert says in warning


def test_what_does_not_run_and_what_is_misspelt_are_warnings(code: Path) -> None:
    (code / "inference.py").write_text(PREDICT + "def inputs_fn(a, b): ...\n")
    (code / "handler.py").write_text("")
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "inference.pyc").write_text("")
    found = read_code(code)
    assert list(found.warnings()) == [
        f"{code}/handler.py does not run, because inference.py does",
        f"{code}/inference.py line 2: inputs_fn is never called; is input_fn meant?",
    ]
    assert set(found.files()) == {"code/inference.py", "code/handler.py"}


def test_a_model_of_the_hub_gets_its_code_from_s3(shell: Shell, clients: Clients, code: Path) -> None:
    (code / "inference.py").write_text(PREDICT)
    clients["s3"].create_bucket(Bucket="weights")
    command = ["org/model", "--code", str(code), "--image", IMAGE, "--role", ROLE, "--instance-type", "ml.g5.xlarge"]
    assert shell("deploy", *command) == 2
    assert "`deploy` needs --upload-to" in shell.err
    command += ["--upload-to", "s3://weights/code"]
    assert shell("plan", *command, "--offline") == 0
    assert f"{code}/inference.py: predict_fn" in shell.out.replace("\n" + " " * 14, "")
    assert "S3 PutObject for each file, below s3://weights/code/" in shell.out
    assert shell("deploy", *command, "--way", "boto3", "--no-preflight") == 0
    keys = [item["Key"] for item in clients["s3"].list_objects_v2(Bucket="weights")["Contents"]]
    assert keys == ["code/code/inference.py"]
    container = clients.sagemaker.describe_model(ModelName=shell.json["model"])["PrimaryContainer"]
    assert container["ModelDataSource"]["S3DataSource"]["S3Uri"] == "s3://weights/code/"
    assert container["Environment"]["HF_MODEL_ID"] == "org/model"
    assert container["Environment"]["TRUST_CUSTOM_CODE"] == "true"
    assert "SAGEMAKER_PROGRAM" not in container["Environment"]


@pytest.mark.parametrize(
    ("words", "text", "says"),
    [
        (["--name", "own", "--model-id", "/in/image"], {"handler.py": HANDLER}, "runs from the model's own directory"),
        (["--name", "own"], {"inference.py": PREDICT}, "inference.py loads no model of its own"),
        (["--name", "own"], {"handler.py": ENGINE_HANDLER}, "handler.py loads no model of its own"),
        (["org/model", "--env", "TRUST_CUSTOM_CODE=false"], {"inference.py": OWN}, "trust_custom_code is given twice"),
        (["s3://b/m/", "--upload-to", "s3://b/c/"], {"inference.py": OWN}, "--upload-to does nothing without a local"),
    ],
)
def test_what_could_not_run_there_is_refused(
    words: list[str], text: dict[str, str], says: str, shell: Shell, code: Path
) -> None:
    for name, content in text.items():
        (code / name).write_text(content)
    target = [] if "--upload-to" in words else ["--upload-to", "s3://b/c/"]
    common = ["--code", str(code), "--image", IMAGE, "--role", ROLE, "--instance-type", "ml.g5.xlarge", "--offline"]
    assert shell("plan", *words, *target, *common) == 2
    assert says in shell.err


@pytest.mark.parametrize("name", ["inference.py", "handler.py"])
def test_code_with_a_model_of_its_own_needs_no_model(name: str, shell: Shell, code: Path) -> None:
    (code / name).write_text({"inference.py": OWN, "handler.py": HANDLER}[name])
    common = ["--image", IMAGE, "--role", ROLE, "--instance-type", "ml.g5.xlarge", "--offline", "--json"]
    assert shell("plan", "--name", "own", "--code", str(code), "--upload-to", "s3://b/c/", *common) == 0
    container = shell.json["requests"]["CreateModel"]["PrimaryContainer"]
    assert container["ModelDataSource"]["S3DataSource"]["S3Uri"] == "s3://b/c/"
    assert not container["Environment"].keys() & {"HF_MODEL_ID", "SAGEMAKER_PROGRAM"}


def test_a_directory_that_only_the_code_can_read(code: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "forest.bin").write_text("")
    with pytest.raises(SpecError, match="neither a config"):
        list(model_files(tmp_path / "own"))
    assert [key for key, _ in model_files(tmp_path / "own", opaque=True)] == ["forest.bin"]


@pytest.mark.parametrize(
    ("main", "model", "mounts"),
    [
        ("inference.py", False, {"mine": "/code"}),
        ("inference.py", True, {"model/config.json": "/config.json", "mine": "/code"}),
        ("handler.py", True, {"model/config.json": "/config.json", "mine/handler.py": "/handler.py"}),
    ],
)
def test_local_mounts_the_code_where_sagemaker_puts_it(
    main: str,
    model: bool,
    mounts: dict[str, str],
    shell: Shell,
    code: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (code / main).write_text(OWN if main == "inference.py" else HANDLER)
    (tmp_path / "model" / "code").mkdir(parents=True)
    for name in ("config.json", "code/inference.py"):
        (tmp_path / "model" / name).write_text("{}")
    (tmp_path / "body.json").write_text('{"a": 1}')
    words = ["--model", str(tmp_path / "model")] if model else []
    if main == "handler.py":
        assert shell("local", "image:1", "--code", str(code), *words) == 2
        assert "model/code/inference.py would run in place of" in shell.err
        (tmp_path / "model" / "code" / "inference.py").unlink()
        (tmp_path / "model" / "code").rmdir()
    seen: list[LocalOptions] = []
    monkeypatch.setattr(commands, "check_locally", lambda options, progress: seen.append(options) or [])
    assert shell("local", "image:1", "--code", str(code), "--body", str(tmp_path / "body.json"), *words) == 0
    arguments = docker_arguments(seen[0], "name")
    found = [value for option, value in itertools.pairwise(arguments) if option == "--volume"]
    assert sorted(found) == sorted(f"{tmp_path / path}:/opt/ml/model{place}:ro" for path, place in mounts.items())
    assert seen[0].environment == {"TRUST_CUSTOM_CODE": "true"}
    assert seen[0].body == b'{"a": 1}'


def test_local_refuses_what_would_not_run(shell: Shell, code: Path) -> None:
    (code / "inference.py").write_text(PREDICT)
    assert shell("local", "image:1", "--code", str(code)) == 2
    assert "loads no model of its own" in shell.err
    assert shell("local", "image:1", "--body", "x.json") == 2
    assert "--body does nothing without --code" in shell.err


def test_the_rules_for_any_code(container_url: str, code: Path) -> None:
    """The container's own routes stand for code that answers and refuses."""
    (code / "inference.py").write_text(PREDICT)
    found = read_code(code)
    assert all(finding.ok for finding in check_code(container_url, found, None))
    broken = [finding for finding in check_code(container_url, found, b'{"messages": "x"}') if not finding.ok]
    assert [finding.detail[:10] for finding in broken] == ["status 400"]


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index but one that nobody listens at, whatever this machine's configuration says."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")


@pytest.mark.usefixtures("no_index")
def test_requirements_are_resolved_for_the_image(code: Path) -> None:
    requirements = code / "requirements.txt"
    requirements.write_text("acme_search==1.0\n")
    assert "was not checked: no package index can be reached" in check_requirements(requirements)
    make_wheel(code / "requirements", "acme_search", needs=["acme_index>=2"])
    make_wheel(code / "requirements", "acme_index", "2.0")
    assert check_requirements(requirements) == ""
    requirements.write_text("acme_search==1.1\n")
    with pytest.raises(PreflightError, match=r"cannot be met in the image: .* acme_search==1\.1") as caught:
        check_requirements(requirements)
    assert caught.value.remedy.endswith("into " + str(code / "requirements"))
    (code / "requirements" / "acme_source-1.0.tar.gz").write_bytes(b"")
    requirements.write_text("acme_source\n")
    assert check_requirements(requirements).endswith("acme_source has no wheel for the image, which has no compiler")
