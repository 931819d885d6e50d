"""A model's code runs only if it is trusted and transformers has none for the family; kernels are never fetched."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from handler.model.loader import load
from handler.model.location import check_files
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadModel
from handler.seam.status import StatusBoard
from handler.startup import start

MAP = {"AutoConfig": "evil.LlamaConfig", "AutoModelForCausalLM": "evil.LlamaForCausalLM"}


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def checked_and_loaded(directory: Path, *, trusted: bool) -> str:
    check_files(directory, trust_remote_code=trusted)
    config = EngineConfig(
        trust_remote_code=trusted, quantize=Quantize.NONE, device="cpu", dtype="float32", cache_dir=str(directory)
    )
    return type(load(config, directory, lambda *_: None).model).__module__


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    "changes",
    [{"auto_map": MAP}, {"auto_map": {"AutoModelForCausalLM": "other/repo--evil.M"}}, {"vision": {"auto_map": MAP}}],
)
def test_a_known_family_runs_on_the_code_of_transformers(
    model: Path, trusted: bool, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    ran = model / "ran"
    (model / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()")
    edit(model, **changes)
    with caplog.at_level(logging.INFO):
        assert checked_and_loaded(model, trusted=trusted) == "transformers.models.llama.modeling_llama"
    assert not ran.exists()
    assert [line for line in caplog.messages if line.endswith("auto_map is ignored, transformers knows llama")]


@pytest.mark.parametrize(
    "changes", [{"auto_map": MAP}, {"text_config": {"auto_map": MAP}}, {"parts": [{"auto_map": 1}]}]
)
def test_an_unknown_family_needs_trust(model: Path, changes: dict[str, Any]) -> None:
    edit(model, model_type="brandnew", **changes)
    with pytest.raises(BadModel, match=r"'auto_map'.* set HF_MODEL_TRUST_REMOTE_CODE=true only if you trust it"):
        check_files(model, trust_remote_code=False)
    check_files(model, trust_remote_code=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation_autoset": True},
        {"_attn_implementation_autoset": False, "text": {"_attn_implementation_autoset": True}},
        {"_attn_implementation_internal": None},
        {"_attn_implementation": "eager"},
        {"attn_implementation": "sdpa"},
        {"_experts_implementation_autoset": True},
    ],
)
def test_flags_of_other_versions_are_ignored(model: Path, changes: dict[str, Any]) -> None:
    edit(model, **changes)
    assert checked_and_loaded(model, trusted=False) == "transformers.models.llama.modeling_llama"


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "other/kernel"},
        {"_attn_implementation_internal": "kernel"},
        {"_attn_implementation_autoset": "other/kernel"},
        {"_experts_implementation_internal": "other/kernel"},
        {"attn_implementation": "other/kernel"},
        {"attn_implementation": {"text_config": "other/kernel"}},
        {"_attn_implementation": ["other/kernel"]},
        {"_attn_implementation": {"": [{"a": ["kernel"]}]}},
        {"text_config": {"_attn_implementation_internal": "other/kernel"}},
        {"parts": [{"_attn_implementation": "other/kernel"}]},
    ],
)
def test_a_kernels_name_is_refused(model: Path, trusted: bool, changes: dict[str, Any]) -> None:
    edit(model, **changes)
    with pytest.raises(BadModel, match=r"has the key '\w+', which can fetch and run code; remove it") as caught:
        check_files(model, trust_remote_code=trusted)
    assert "TRUST_REMOTE_CODE" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ('{"model_type": "no_such_model"}', r"config\.json was not understood"),
        ('{"model_type": "new", "auto_map": {"AutoConfig": "x.Y"}}', "auto_map"),
        ('{"model_type": "bart"}', "model type 'bart' is an encoder-decoder; only decoder-only"),
        ('{"model_type": "llama", "_attn_implementation_internal": "a/b"}', "_attn_implementation"),
    ],
)
def test_a_start_refuses_a_config_that_it_cannot_use(model: Path, config: str, sentence: str) -> None:
    (model / "config.json").write_text(config)
    asked = EngineConfig(model=str(model), cache_dir=str(model.parent), device="cpu", num_threads=1)
    with pytest.raises(BadModel, match=sentence):
        start(asked, StatusBoard(model / "board", create=True))
