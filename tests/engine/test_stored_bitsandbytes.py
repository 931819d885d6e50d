"""Checkpoints that bitsandbytes has quantised, on CPU: any dtype, any shape, no neighbour's influence, no library."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from handler.model.loader import LoadedModel, load
from handler.runners.slots.runner import SlotRunner
from handler.seam.config import EngineConfig, Quantize
from tests.support import tiny_models
from tests.support.local_engine import limits

pytestmark = pytest.mark.usefixtures("one_thread")

FORMS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "int8 with threshold 3": {"load_in_8bit": True, "llm_int8_threshold": 3.0},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4 nested": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_compute_dtype": torch.bfloat16},
}
DTYPES = ("float32", "float16", "bfloat16")
OUTLIER = 5


def stored(directory: Path, form: str, dtype: str, inner: int = 128, family: str = "llama") -> Path:
    """A checkpoint as a user of transformers saves it; token OUTLIER has one feature far above the threshold."""
    sizes = {"intermediate_size": inner, "num_hidden_layers": 2} if family == "llama" else {}
    model = tiny_models.build(family, **sizes)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding[OUTLIER] = 0
        embedding[OUTLIER, 3] = 5.0
    model.save_pretrained(directory / "plain")
    options = {"dtype": getattr(torch, dtype), "device_map": "cpu"}
    quantised = AutoModelForCausalLM.from_pretrained(
        directory / "plain", quantization_config=BitsAndBytesConfig(**FORMS[form]), **options
    )
    quantised.save_pretrained(directory / "stored")
    tiny_models.write_tokenizer(directory / "stored")
    return directory / "stored"


def opened(directory: Path, dtype: str = "auto") -> LoadedModel:
    return load(EngineConfig(device="cpu", dtype=dtype, cache_dir=str(directory)), directory, lambda *_: None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_it_runs_over_slots_in_the_dtype_that_is_asked(form: str, dtype: str, tmp_path: Path) -> None:
    directory = stored(tmp_path, form, "bfloat16" if dtype != "bfloat16" else "float16")
    loaded = opened(directory, dtype)
    assert loaded.dtype is loaded.model.dtype is getattr(torch, dtype)
    assert loaded.quantize == {"i": "bitsandbytes", "n": "bitsandbytes-nf4", "f": "bitsandbytes-fp4"}[form[0]]
    bounds = limits(max_model_len=64, max_num_seqs=4)
    SlotRunner(loaded, bounds.max_num_seqs, bounds.max_model_len).prove()


@pytest.mark.parametrize("form", ["int8", "int8 with threshold 3"])
def test_no_neighbour_changes_a_row(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = stored(tmp_path, form, "bfloat16")
    with caplog.at_level(logging.INFO, "handler"):
        model = opened(directory, "bfloat16").model
    assert caplog.text.count("llm_int8_threshold=") == 1
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    norm = model.get_submodule("model.layers.0.input_layernorm")
    with torch.inference_mode():
        rows = norm(model.get_input_embeddings()(torch.tensor([[7], [OUTLIER]])))
        assert rows[1].abs().max() > 6
        assert torch.equal(layer(rows[:1]), layer(rows)[:1])


@pytest.mark.parametrize("form", FORMS)
def test_neither_loading_nor_products_need_the_library(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = stored(tmp_path, form, "bfloat16")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # an import of it fails
    caplog.clear()
    model = opened(directory).model
    with torch.inference_mode():
        model(input_ids=torch.tensor([[1, 2, 3]]))
    assert [record.name for record in caplog.records if record.name.startswith("bitsandbytes")] == []


def test_layers_quantised_at_load_leave_the_log_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tiny_models.save("llama", tmp_path, num_hidden_layers=1)
    logging.getLogger("bitsandbytes").setLevel(logging.NOTSET)
    config = EngineConfig(device="cpu", dtype="bfloat16", cache_dir=str(tmp_path), quantize=Quantize.INT8)
    model = load(config, directory, lambda *_: None).model
    with torch.inference_mode():
        model(input_ids=torch.tensor([[1, 2, 3]]))
    assert [record.name for record in caplog.records if record.name.startswith("bitsandbytes")] == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inner", [96, 100, 72])
def test_a_layer_of_any_shape_is_exact(form: str, inner: int, tmp_path: Path) -> None:
    """Blocks of 64 weights cross the rows then. bitsandbytes' own product is for other shapes, and takes no CPU's."""
    loaded = opened(stored(tmp_path, form, "bfloat16", inner), "float32")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    assert loaded.model.get_parameter("model.layers.1.mlp.down_proj.weight").shape == (64, inner)
    assert_close(loaded.model, plain, "model.layers.1.mlp.down_proj.weight", form)
    bounds = limits(max_model_len=64, max_num_seqs=4)
    SlotRunner(loaded, bounds.max_num_seqs, bounds.max_model_len).prove()


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_that_has_its_inputs_first_is_exact(form: str, tmp_path: Path) -> None:
    """GPT-2's layers keep `[K, N]`; bitsandbytes stores `[N, K]`, which a square weight does not tell apart."""
    loaded = opened(stored(tmp_path, form, "bfloat16", family="gpt2"), "float32")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    for name in ("attn.c_attn", "attn.c_proj"):
        assert_close(loaded.model, plain, f"transformer.h.1.{name}.weight", form)


def assert_close(model: Any, plain: Any, name: str, form: str) -> None:
    """The weight is what rounding to the form leaves of it; a scale of another block, or another order, is further."""
    found, exact = (each.get_parameter(name).detach() for each in (model, plain))
    assert float((found - exact).norm() / exact.norm()) < {"i": 0.01, "n": 0.11, "f": 0.14}[form[0]]
