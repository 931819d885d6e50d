"""Where the model is looked for: what was asked for, then what SageMaker or Inference Endpoints have mounted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from handler.model import location as model_location
from handler.model.location import locate
from handler.seam.config import EngineConfig


def model(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(1)}, directory / "model.safetensors")
    return directory


def found(config: EngineConfig) -> tuple[Path, str]:
    return locate(config, lambda *_: None)


def test_the_order_of_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sagemaker, endpoints, asked = tmp_path / "opt", tmp_path / "repository", model(tmp_path / "asked")
    monkeypatch.setattr(model_location, "_MOUNTS", (sagemaker, endpoints))
    sagemaker.mkdir()
    model(endpoints)
    assert found(EngineConfig()) == (endpoints, str(endpoints)), "an empty mount is none"
    model(sagemaker)
    assert found(EngineConfig()) == (sagemaker, str(sagemaker))
    assert found(EngineConfig(model=str(asked), served_model_id="me")) == (asked, "me")


def test_the_mounts_are_those_of_the_platforms() -> None:
    assert [str(path) for path in model_location._MOUNTS] == ["/opt/ml/model", "/repository"]


def test_nothing_is_looked_up_once_the_model_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub may be asked for the model, no library asks it for anything afterwards."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    found(EngineConfig(model=str(model(tmp_path))))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(OfflineModeIsEnabled):
        HfApi(endpoint="http://127.0.0.1:9").model_info("owner/name")
