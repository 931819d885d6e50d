"""Code beside the model that is not run is named: in the log, on the card, or in the refusal."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from handler.model import location as model_location
from handler.model.checks.custom_code import custom_code_files
from handler.model.location import custom_code, locate
from handler.seam.code_names import CUSTOM_CODE
from handler.seam.config import EngineConfig
from handler.seam.errors import BadModel
from sagemaker_deploy.aws.upload import code_warnings

NAMES = ["code/helper.py", "code/inference.py", "code/requirements.txt", *CUSTOM_CODE]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "config.json").write_text("{}")
    save_file({}, tmp_path / "model.safetensors")
    return tmp_path


def write(directory: Path, name: str) -> str:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_logged_once_and_refused_on_demand(
    model: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(model, name)
    with caplog.at_level(logging.WARNING):
        for index in (0, 1):
            locate(EngineConfig(model=str(model), index=index), lambda *_: None)
    assert [path in record.getMessage() for record in caplog.records] == [True]
    # The word of /info's custom_code_ignored.
    assert caplog.records[0].getMessage().startswith("ignored, as ")
    with pytest.raises(BadModel, match=f"REFUSE_CUSTOM_CODE.*{name}"):
        locate(EngineConfig(model=str(model), refuse_custom_code=True), lambda *_: None)


def test_a_model_without_code_is_silent(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(model, "README.md")
    locate(EngineConfig(model=str(model), refuse_custom_code=True), lambda *_: None)
    assert not caplog.records


def test_code_in_a_mount_counts_though_the_weights_are_elsewhere(
    model: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path_factory.mktemp("mount")
    monkeypatch.setattr(model_location, "_MOUNTS", (mount,))
    path = write(mount, "code/inference.py")
    assert custom_code(EngineConfig(model=str(model)), model) == [path]


def test_a_module_that_auto_map_runs_is_not_ignored(model: Path) -> None:
    config = {"auto_map": {"AutoModelForCausalLM": "model.Model", "AutoTokenizer": ["handler.Slow", None]}}
    for name in ("model.py", "handler.py", "inference.py"):
        write(model, name)
    names = [Path(path).name for path in custom_code_files(model, config, trust_remote_code=True)]
    assert names == ["inference.py"]
    assert len(custom_code_files(model, config, trust_remote_code=False)) == 3


def test_the_deploy_helper_warns_of_the_same_names() -> None:
    (warning,) = code_warnings([*NAMES, "config.json"])
    assert all(name in warning for name in NAMES)
    assert "config.json" not in warning
    assert list(code_warnings(["config.json", json.dumps({})])) == []
