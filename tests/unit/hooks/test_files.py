"""Which file of a user's code runs, before anything of it is imported."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code.files import find
from container.hooks.user_code.hook import Convention, HookLoadError, HookSources
from container.hooks.user_code.load import load
from tests.support.hooks import found, loaded, write

SAGEMAKER, TOOLKIT = Convention.SAGEMAKER, Convention.HUGGING_FACE
ENDPOINTS, STANDARDS = Convention.ENDPOINTS, Convention.STANDARDS
HANDLER = "def custom_sagemaker_invocation_handler(request): pass"


@pytest.mark.parametrize(
    ("names", "environ", "trusted", "expected"),
    [
        (["code/inference.py", "inference.py", "handler.py"], {}, True, (TOOLKIT, "code/inference.py")),
        (["inference.py", "handler.py"], {}, True, (TOOLKIT, "inference.py")),
        (["handler.py", "model.py"], {}, True, (ENDPOINTS, "handler.py")),
        (["model.py"], {}, True, (STANDARDS, "model.py")),
        (["other.py"], {"CUSTOM_SCRIPT_FILENAME": "other.py"}, True, (STANDARDS, "other.py")),
        (["handler.py", "p.py"], {"CUSTOM_PRE_PROCESS": "p.py:f"}, False, (STANDARDS, None)),
        (["code/inference.py", "handler.py", "model.py"], {}, False, None),
        (["readme.md"], {}, True, None),
        (["code/a.py"], {"SAGEMAKER_PROGRAM": "a.py"}, False, (SAGEMAKER, "code/a.py")),
        (["code/a.py"], {"SAGEMAKER_PROGRAM": "a"}, False, (SAGEMAKER, "code/a.py")),
        (["code/a.py", "config.json"], {"SAGEMAKER_PROGRAM": "a.py"}, False, (TOOLKIT, "code/a.py")),
        (["a.py", "code/inference.py"], {"SAGEMAKER_PROGRAM": "a.py"}, True, (SAGEMAKER, "a.py")),
        # The SDK sets it to nothing where a model has no code.
        (["code/inference.py"], {"SAGEMAKER_PROGRAM": ""}, False, None),
        (["code/inference.py"], {"SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}, False, None),
    ],
)
def test_the_file_that_runs(
    tmp_path: Path,
    names: list[str],
    environ: dict[str, str],
    trusted: bool,
    expected: tuple[Convention, str | None] | None,
) -> None:
    write(tmp_path, dict.fromkeys(names, HANDLER))
    files = found(tmp_path, trusted=trusted, **environ)
    if expected is None:
        assert files is None
        return
    assert files is not None
    path = None if expected[1] is None else tmp_path / expected[1]
    assert (files.convention, files.path) == (expected[0], path)
    assert files.model_directory == tmp_path


def test_files_that_lose_are_named(tmp_path: Path) -> None:
    write(tmp_path, {"code/inference.py": "", "handler.py": "", "model.py": HANDLER})
    files = found(tmp_path)
    assert files is not None
    assert files.unused == (tmp_path / "handler.py", tmp_path / "model.py")


def test_a_model_py_of_another_server_is_no_hook(tmp_path: Path) -> None:
    assert found(write(tmp_path, {"model.py": "class TritonPythonModel: pass"})) is None


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_the_directory_that_was_submitted_comes_first(tmp_path: Path, prefix: str) -> None:
    write(tmp_path, {"model/code/a.py": "", "sent/a.py": ""})
    environ = {"SAGEMAKER_PROGRAM": "a.py", "SAGEMAKER_SUBMIT_DIRECTORY": f"{prefix}{tmp_path}/sent"}
    files = found(tmp_path / "model", **environ)
    assert files is not None
    assert (files.path, files.directory) == (tmp_path / "sent/a.py", tmp_path / "sent")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SAGEMAKER_PROGRAM": "b.py"}, "SAGEMAKER_PROGRAM is 'b.py', and there is no such file in .*/code, "),
        (
            {"SAGEMAKER_PROGRAM": "b.py", "SAGEMAKER_SUBMIT_DIRECTORY": "s3://mine/b.tar.gz"},
            "only a directory is read, not s3://mine/b.tar.gz",
        ),
        ({"CUSTOM_FASTAPI_MIDDLEWARE_THROTTLE": "a.py:f"}, "CUSTOM_FASTAPI_MIDDLEWARE_THROTTLE: a middleware"),
        ({"CUSTOM_FASTAPI_MIDDLEWARE_PRE_POST_PROCESS": "a:f"}, "PRE_POST_PROCESS: a middleware of a FastAPI"),
        ({"SAGEMAKER_PROGRAM": "a.py", "CUSTOM_PRE_PROCESS": "a.py:f"}, "unset either"),
    ],
)
def test_what_a_variable_asks_in_vain_is_refused(tmp_path: Path, environ: dict[str, str], message: str) -> None:
    with pytest.raises(HookLoadError, match=message):
        found(write(tmp_path, {"code/a.py": ""}), trusted=False, **environ)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["code/inference.py", "code/requirements.txt", "requirements.txt"], "code/requirements.txt"),
        (["code/inference.py", "requirements.txt"], "requirements.txt"),
        (["handler.py", "code/requirements.txt"], "code/requirements.txt"),
        (["handler.py"], None),
    ],
)
def test_its_requirements(tmp_path: Path, names: list[str], expected: str | None) -> None:
    files = found(write(tmp_path, dict.fromkeys(names, "")))
    assert files is not None
    assert files.requirements == (None if expected is None else tmp_path / expected)


def test_a_neighbour_with_the_name_of_a_package_of_this_server_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "class EndpointHandler:\n    def __init__(self, path): ...\n    def __call__(self, data): ..."
    loaded(tmp_path, {"handler.py": code, "container.py": "", "model_memory/__init__.py": "", "other.py": ""})
    said = {record.getMessage().partition(":")[0] for record in caplog.records}
    assert said == {str(tmp_path / name) for name in ("container.py", "model_memory/__init__.py")}


def test_an_archive_that_was_submitted_is_refused_by_its_name(tmp_path: Path) -> None:
    archive = write(tmp_path, {"sourcedir.tar.gz": ""}) / "sourcedir.tar.gz"
    environ = {"SAGEMAKER_PROGRAM": "b.py", "SAGEMAKER_SUBMIT_DIRECTORY": str(archive)}
    with pytest.raises(
        HookLoadError, match=rf"no such file in \S+/code, \S+; .* only a directory is read, not {archive}"
    ):
        found(tmp_path, **environ)


def test_a_variable_counts_where_the_model_has_no_directory(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "def pre(request): pass"})
    engine = EngineModel("http://127.0.0.1:9")
    for named, message in ((f"{tmp_path}/a.py:pre", ""), ("a.py:pre", "there is no /opt/ml/model/a.py")):
        files = find(None, HookSources.read({"CUSTOM_PRE_PROCESS": named}), trusted=False)
        assert files is not None
        assert files.convention is Convention.STANDARDS
        with pytest.raises(HookLoadError, match=message) if message else nullcontext():
            assert not load(files, engine).owns_model
    assert find(None, HookSources.read({}), trusted=True) is None
