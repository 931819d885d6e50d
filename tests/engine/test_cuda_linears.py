"""Quantised linear layers on pretended GPUs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from handler.linears.cuda import int4_linear
from handler.linears.cuda.fp8_linear import Fp8Linear
from handler.linears.cuda.int4_linear import Int4Linear, int4_bytes
from handler.linears.packed_linear import PackedLinear
from handler.linears.quantised_linear import quantised_linear
from handler.linears.quantised_weight import QuantisedWeight
from handler.model.loader import load
from handler.model.loading.weight_source import take_form
from handler.runners.choice import choose_runner
from handler.runners.paged.runner import PagedRunner
from handler.seam.config import EngineConfig, Quantize
from handler.seam.status import StatusBoard
from tests.support import tiny_models
from tests.support.fp8_checkpoint import save_fp8
from tests.support.pretend_cuda import gpus_of, pretend_cuda

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("kind", "block"), [("T4", None), ("A10G", None), ("L4", 32), ("H100", 32)])
def test_an_fp8_checkpoint_is_dequantised_where_no_product_takes_it(
    kind: str, block: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_fp8(tmp_path, block)
    config = EngineConfig(cache_dir=str(tmp_path), max_model_len=64, kv_capacity_tokens=1024, max_num_seqs=2)
    with pretend_cuda(gpus_of(kind)), caplog.at_level("INFO", "handler"):
        loaded = load(config, tmp_path, lambda *_: None)
        dtype = torch.float16 if kind == "T4" else torch.bfloat16
        assert {weight.dtype for weight in loaded.model.parameters()} == {dtype}
        assert {each.dtype for each in loaded.model.buffers()} == {torch.float32}, "rotary frequencies are rounded"
        if kind == "L4":
            runner, _ = choose_runner(config, loaded, StatusBoard(tmp_path / "board", create=True))
            assert runner.name == "paged"
    assert caplog.text.count("14 weights stored as fp8 are dequantised at the start") == 1


@pytest.mark.parametrize("kind", ["L4", "H100"])
def test_fp8_weights_with_one_scale_multiply_in_fp8(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stock = save_fp8(tmp_path, None)
    config = EngineConfig(cache_dir=str(tmp_path), max_model_len=64, kv_capacity_tokens=1024, max_num_seqs=2)
    with pretend_cuda(gpus_of(kind)), caplog.at_level("INFO", "handler"):
        loaded = load(config, tmp_path, lambda *_: None)
        layers = {name: module for name, module in loaded.model.named_modules() if isinstance(module, Fp8Linear)}
        assert len(layers) == 14
        runner, _ = choose_runner(config, loaded, StatusBoard(tmp_path / "board", create=True))
        assert isinstance(runner, PagedRunner)
        assert runner.decoding == "decoding by CUDA graphs"
        for name, layer in layers.items():
            x = torch.randn(5, layer.in_features)
            found = layer(x.to("cuda", torch.bfloat16)).cpu().float()
            expected = x.bfloat16().float() @ stock.get_submodule(name).weight.T
            assert float((found - expected).norm() / expected.norm()) < 0.04, "more than fp8 rounds activations"
    assert "linear layers multiply as stored: 14 of 8 bits" in caplog.text
    assert "dequantised" not in caplog.text


@pytest.mark.parametrize("form", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_only_the_floats_of_the_product_multiply_in_fp8(form: torch.dtype) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(form).float()
    with pretend_cuda(gpus_of("H100")):
        weight = QuantisedWeight(8, torch.ones(16, 32, dtype=torch.uint8), torch.ones(16, 1), table=values).to("cuda")
        assert (quantised_linear(weight, None, torch.bfloat16) is not None) is (form is torch.float8_e4m3fn)


@pytest.mark.parametrize("form", ["load_in_4bit", "load_in_8bit"])
def test_bitsandbytes_multiplies_what_it_has_stored(form: str) -> None:
    config = SimpleNamespace(quantization_config={form: True, "quant_method": "bitsandbytes"})
    assert take_form(config, torch.device("cuda")) is None
    assert config.quantization_config.get("llm_int8_threshold") == (0.0 if form == "load_in_8bit" else None)
    assert take_form(config, torch.device("cpu")) is not None


@pytest.mark.parametrize("kind", ["L4", "H100"])
def test_a_row_in_fp8_does_not_depend_on_its_neighbours(kind: str) -> None:
    weight = torch.randn(32, 64)
    with pretend_cuda(gpus_of(kind)):
        codes = (weight * 100).to(torch.float8_e4m3fn)
        layer = Fp8Linear(codes.to("cuda"), torch.rand(32, 1).to("cuda"), torch.ones(32).to("cuda", torch.bfloat16))
        rows = torch.randn(3, 64).to("cuda", torch.bfloat16)
        rows[1] *= 1e4
        rows[2] = 0
        together = layer(rows).cpu()
        alone = torch.cat([layer(row[None]).cpu() for row in rows.unbind()])
        assert torch.equal(together, alone)
        assert together.isfinite().all()


@pytest.mark.parametrize(("quantize", "family"), [(Quantize.INT4_BLOCKS, "llama"), (Quantize.INT8_BLOCKS, "qwen2")])
def test_layers_are_quantised_as_on_cpu_while_they_are_loaded(
    quantize: Quantize, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the codes, scales and minima of CPU, so that perplexities measured there hold."""
    monkeypatch.setattr(int4_linear, "_LOADED_PIECE", 1 << 12)
    directory = tmp_path / "model"
    tiny_models.build(family, num_hidden_layers=2).to(torch.bfloat16).save_pretrained(directory)
    tiny_models.write_tokenizer(directory)
    config = EngineConfig(
        cache_dir=str(tmp_path), max_model_len=64, kv_capacity_tokens=1024, max_num_seqs=2, quantize=quantize
    )
    with pretend_cuda(gpus_of("A10G")):
        loaded = load(config, directory, lambda *_: None)
        assert loaded.quantize == quantize
        layers = {name: module for name, module in loaded.model.named_modules() if isinstance(module, Int4Linear)}
        weights = {name: module.weight.cpu().float() for name, module in layers.items()}
        runner, _ = choose_runner(config, loaded, StatusBoard(tmp_path / "board", create=True))
        assert isinstance(runner, PagedRunner)
        assert runner.decoding == "decoding by CUDA graphs"
    on_cpu = load(
        EngineConfig(cache_dir=str(tmp_path), device="cpu", dtype="float32", quantize=quantize),
        directory,
        lambda *_: None,
    )
    packed = {name: module for name, module in on_cpu.model.named_modules() if isinstance(module, PackedLinear)}
    assert layers.keys() == packed.keys()
    assert {name: module.bits for name, module in layers.items()} == {n: m.bits for n, m in packed.items()}
    for name, module in packed.items():
        expected = module.weight
        assert float((weights[name] - expected).norm() / expected.norm()) < 5e-3, name
        assert (layers[name].bias is None) == (module.bias is None)


def test_loading_takes_little_more_memory_than_the_quantised_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int4_linear, "_LOADED_PIECE", 1 << 14)
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 12}
    directory = tiny_models.save("llama", tmp_path / "model", **sizes)
    config = EngineConfig(cache_dir=str(tmp_path), quantize=Quantize.INT4_BLOCKS)
    with pretend_cuda(gpus_of("A10G")) as gpus:
        loaded = load(config, directory, lambda *_: None)
        linears = [module for module in loaded.model.modules() if isinstance(module, Int4Linear)]
        assert {module.bits for module in linears} == {4, 8}
        for module in linears:
            held = module.packed.nbytes + module.scales_and_zeros.nbytes
            assert held == module.in_features * module.out_features * int4_bytes(module.bits)
        weights = sum(module.in_features * module.out_features for module in linears if module.bits == 4)
        assert gpus.all[0].allocated < 1.1 * weights
        assert gpus.all[0].most_allocated < 1.3 * gpus.all[0].allocated


def test_layers_whose_products_are_wrong_stay_dense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a GPU that lays weights out otherwise would do is done to the layout that is read back."""
    right = int4_linear.unpack
    monkeypatch.setattr(int4_linear, "unpack", lambda *packed: right(*packed).roll(1, 0))
    directory = tiny_models.save("llama", tmp_path / "model", num_hidden_layers=1)
    with pretend_cuda(gpus_of("A10G")):
        model = load(
            EngineConfig(cache_dir=str(tmp_path), quantize=Quantize.INT4_BLOCKS), directory, lambda *_: None
        ).model
        kept = {type(module) for module in model.modules() if "Linear" in type(module).__name__}
        assert kept == {torch.nn.Linear}
        assert all(weight.dtype is torch.bfloat16 for weight in model.parameters())
    assert "4-bit weights stay dense: their products differ" in caplog.text
    assert "8-bit weights stay dense: their products differ" in caplog.text
