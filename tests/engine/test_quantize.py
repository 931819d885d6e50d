"""Every way to store weights on CPU: close to the weights it stands for, and the same alone as in a batch."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from handler import startup
from handler.linears import choice
from handler.linears.cuda.int4_linear import int4_bytes
from handler.linears.packed_linear import KERNEL, Kernel, PackedLinear
from handler.linears.quantised_weight import QuantisedWeight
from handler.model import loader as model_loader
from handler.model.loader import LoadedModel, load
from handler.model.placement import Devices
from handler.model.quantize import resolve
from handler.runners.slots.runner import SlotRunner
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadConfiguration
from model_memory.forms import auto_forms, quantized
from tests.support import tiny_models
from tests.support.fp8_checkpoint import save_fp8
from tests.support.local_engine import LocalEngine, limits
from tests.support.pretend_cuda import GPU_KINDS, gpus_of, pretend_cuda

pytestmark = pytest.mark.usefixtures("one_thread")

AT_LOAD = [Quantize.INT8, Quantize.NF4, Quantize.FP4, Quantize.INT8_BLOCKS, Quantize.INT4_BLOCKS]
# Root mean square of what rounding does to normally distributed weights, relative to theirs.
ROUNDING = {"bitsandbytes": 0.01, "bitsandbytes-nf4": 0.1, "bitsandbytes-fp4": 0.13, "int8": 0.007, "int4": 0.1}
PROMPTS = [[5, 9, 17, 33, 41, 50, 7], [8, 3, 22], [(11 * i + 5) % 250 for i in range(40)]]


def open_model(directory: Path, quantize: Quantize, cache: Path | None = None) -> LoadedModel:
    config = EngineConfig(quantize=quantize, device="cpu", dtype="float32", cache_dir=str(cache or directory))
    return load(config, directory, lambda *_: None)


def kinds(model: Any) -> dict[str, str]:
    return {name: type(m).__name__ for name, m in model.named_modules() if "Linear" in type(m).__name__}


@torch.inference_mode()
def logits(model: Any, ids: list[int]) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return found.float()


@torch.no_grad()
def dequantised(model: Any) -> Any:
    """The stock model over the weights that the quantised layers stand for."""
    stock = tiny_models.build("llama")
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear):
            stock.get_submodule(name).weight.copy_(module.weight)
        elif "Linear4bit" in type(module).__name__:
            from bitsandbytes.functional import dequantize_4bit

            stock.get_submodule(name).weight.copy_(dequantize_4bit(module.weight.data, module.weight.quant_state))
        elif "Linear8bitLt" in type(module).__name__:
            stock.get_submodule(name).weight.copy_(module.weight.data.float() * module.weight.SCB[:, None] / 127)
    return stock


@pytest.fixture
def run_alone_and_batched(tmp_path: Path) -> Callable[[LoadedModel], tuple[list[list[int]], list[list[int]]]]:
    def run(loaded: LoadedModel) -> tuple[list[list[int]], list[list[int]]]:
        bounds = limits(max_model_len=64, max_num_seqs=4)
        runner = SlotRunner(loaded, bounds.max_num_seqs, bounds.max_model_len)
        runner.prove()
        engine = LocalEngine(runner, bounds, tmp_path)
        try:
            alone = []
            for prompt in PROMPTS:
                alone.append(engine.submit(prompt, max_tokens=12))
                engine.run()
            together = [engine.submit(prompt, max_tokens=12, reuse_prefix=False) for prompt in PROMPTS]
            engine.run()
        finally:
            engine.close()
        assert [outcome.error for outcome in alone + together] == [None] * 6
        return [o.token_ids for o in alone], [o.token_ids for o in together]

    return run


@pytest.mark.parametrize("quantize", AT_LOAD)
def test_a_form_stands_for_the_weights_and_answers_alike_alone_and_in_a_batch(
    quantize: Quantize, tiny_llama: Path, run_alone_and_batched: Callable[..., Any]
) -> None:
    loaded = open_model(tiny_llama, quantize)
    assert loaded.quantize == quantize
    stock = tiny_models.build("llama")
    # Before the first product: bitsandbytes repacks 4-bit weights in place at that.
    rounded = dequantised(loaded.model)
    for layer in ("model.layers.0.self_attn.q_proj", "model.layers.3.mlp.up_proj"):
        exact, near = (model.get_submodule(layer).weight.detach() for model in (stock, rounded))
        assert 1e-4 < float((near - exact).norm() / exact.norm()) < ROUNDING[quantize]
    expected = logits(rounded, PROMPTS[2])
    with KERNEL.using(Kernel.PACKED):
        found = logits(loaded.model, PROMPTS[2])
    # bitsandbytes computes in bfloat16 (4 bits) or rounds activations to 8 bits; our blocks compute in float32.
    close = 1e-4 if "bitsandbytes" not in quantize else 0.1
    assert float((found - expected).abs().max() / expected.abs().max()) < close
    alone, together = run_alone_and_batched(loaded)
    assert alone == together


def test_both_kernels_of_a_packed_model_run_the_same_weights(tiny_llama: Path) -> None:
    model = open_model(tiny_llama, Quantize.INT4_BLOCKS).model
    found = []
    for kernel in (Kernel.PACKED, Kernel.DENSE):
        with KERNEL.using(kernel):
            found.append(logits(model, PROMPTS[2]))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-3)
    bits = {name: m.bits for name, m in model.named_modules() if isinstance(m, PackedLinear)}
    assert bits.pop("lm_head") == 8
    assert set(bits.values()) == {4}


def test_without_memory_to_spare_no_dense_weights_are_kept(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.model.loader.available_memory_bytes", lambda: 1000)
    loaded = open_model(tiny_llama, Quantize.INT4_BLOCKS)
    layers = [m for m in loaded.model.modules() if isinstance(m, PackedLinear)]
    assert layers
    assert all(layer.dense is None for layer in layers)
    assert not [n for n, p in loaded.model.named_parameters() if n.endswith("proj.weight")], "dense weights remain"
    assert logits(loaded.model, PROMPTS[2]).isfinite().all()


@pytest.mark.parametrize(("quantize", "most"), [(Quantize.INT4_BLOCKS, 4), (Quantize.NONE, 0)])
def test_guesses_never_switch_kernels(
    quantize: Quantize, most: int, tiny_llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The length of a draft follows the clock, the kernel the rows. The head has 8 bits: 4 rows."""
    model = open_model(tiny_llama, quantize).model
    config, runner = EngineConfig(num_draft_tokens=8), SimpleNamespace(drafts_obstacle=None, loaded=None)
    runner.loaded = SimpleNamespace(model=model)
    drafter = startup._drafter(config, cast(Any, runner))
    assert drafter is not None
    assert drafter.max_rows == most
    assert ("SPECULATE=8: steps with guesses have at most 4 rows" in caplog.text) == bool(most)
    with KERNEL.using(Kernel.DENSE):
        free = startup._drafter(config, cast(Any, runner))
    assert free is not None
    assert free.max_rows == 0


def save_changed(directory: Path, **changes: Any) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **tiny_models.FAMILIES["llama"] | changes)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
    tiny_models.write_tokenizer(directory)
    return directory


@pytest.mark.parametrize("quantize", AT_LOAD)
def test_layers_of_odd_shape_stay_as_they_are_with_a_line_in_the_log(
    quantize: Quantize, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = save_changed(tmp_path, intermediate_size=72, tie_word_embeddings=True)
    with caplog.at_level(logging.WARNING, "handler"):
        loaded = open_model(directory, quantize)
    found = kinds(loaded.model)
    assert found["model.layers.0.mlp.down_proj"] == "Linear"
    assert found["model.layers.0.self_attn.q_proj"] != "Linear"
    assert "stay unquantised" in caplog.text
    assert "model.layers.0.mlp.down_proj (64 x 72)" in caplog.text
    for count in (1, 2, 7):
        assert logits(loaded.model, PROMPTS[0][:count]).isfinite().all()


@pytest.mark.parametrize("quantize", [Quantize.INT8_BLOCKS, Quantize.INT4_BLOCKS])
def test_tied_output_weights_stay_one_tensor(quantize: Quantize, tmp_path: Path) -> None:
    model = open_model(save_changed(tmp_path, tie_word_embeddings=True), quantize).model
    head = model.get_output_embeddings()
    assert isinstance(head, PackedLinear)
    assert head.dense is not None
    assert head.dense.data_ptr() == model.get_input_embeddings().weight.data_ptr()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_checkpoint_saved_quantised_loads_as_it_is(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tiny_models.save("llama", tmp_path / "dense")
    quantised = open_model(directory, Quantize(f"bitsandbytes-{kind}")).model
    saved = tmp_path / "quantised"
    quantised.save_pretrained(saved)
    expected = logits(dequantised(quantised), PROMPTS[2])
    with caplog.at_level(logging.WARNING, "handler"):
        found = open_model(saved, Quantize.INT8)
    assert found.quantize == f"bitsandbytes-{kind}"
    assert f"is stored as bitsandbytes-{kind}; HF_MODEL_QUANTIZE=bitsandbytes is not applied" in caplog.text
    assert kinds(found.model)["model.layers.0.mlp.down_proj"] == "Linear"
    torch.testing.assert_close(logits(found.model, PROMPTS[2]), expected)
    caplog.clear()
    assert open_model(saved, Quantize.AUTO).quantize == f"bitsandbytes-{kind}"
    assert not caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("block", [32, None])
def test_an_fp8_checkpoint_runs_dequantised_in_either_dtype(block: int | None, dtype: str, tmp_path: Path) -> None:
    stock = save_fp8(tmp_path, block)
    loaded = load(EngineConfig(device="cpu", dtype=dtype, cache_dir=str(tmp_path)), tmp_path, lambda *_: None)
    assert loaded.quantize == "fp8"
    assert {weight.dtype for weight in loaded.model.parameters()} == {getattr(torch, dtype)}
    expected, found = logits(stock, PROMPTS[2]), logits(loaded.model, PROMPTS[2])
    close = 2e-2 if dtype == "float32" else 0.15
    assert float((found - expected).abs().max() / expected.abs().max()) < close
    SlotRunner(loaded, 4, 64).prove()


def test_the_dtype_of_a_form_that_transformers_loads_is_the_model_s() -> None:
    """The engine's buffers follow it: bitsandbytes' layers compute in the dtype that they are stored in."""
    model = tiny_models.build("llama", num_hidden_layers=1).to(torch.float16)
    assert model_loader._kept_dtype(model, "bitsandbytes-nf4", torch.bfloat16) is torch.float16


@pytest.mark.parametrize(
    ("wanted", "device", "sentence"),
    [
        ("awq", "cpu", "HF_MODEL_QUANTIZE=awq is for checkpoints that are stored that way"),
        ("gptq", "cuda", "HF_MODEL_QUANTIZE=gptq is for checkpoints that are stored that way"),
        ("marlin", "cuda", "HF_MODEL_QUANTIZE=marlin is for checkpoints that are stored that way"),
        ("fp8", "cuda", "HF_MODEL_QUANTIZE=fp8 is for checkpoints that are stored that way"),
        ("compressed-tensors", "cpu", "HF_MODEL_QUANTIZE=compressed-tensors is for checkpoints"),
        ("exl2", "cuda", "HF_MODEL_QUANTIZE=exl2 is not supported"),
        ("int4", "cuda", "HF_MODEL_QUANTIZE=int4 computes in bfloat16 on a GPU of compute capability 8.0 or more, and"),
        ("int8", "cuda", "HF_MODEL_QUANTIZE=int8 computes in bfloat16 on a GPU of compute capability 8.0 or more, and"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(wanted: str, device: str, sentence: str) -> None:
    with pretend_cuda(gpus_of("T4")), pytest.raises(BadConfiguration) as error:
        resolve(Quantize(wanted), torch.device(device), torch.float16, nn.Module())
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("wanted", "method", "warned"),
    [
        ("auto", "gptq", False),
        ("none", "awq", False),
        ("gptq", "gptq", False),
        ("gptq", "auto-round", False),
        ("marlin", "gptq", False),
        ("marlin", "awq", False),
        ("fp8", "fbgemm_fp8", False),
        ("compressed-tensors", "compressed-tensors", False),
        ("awq", "gptq", True),
        ("eetq", "gptq", True),
        ("int4", "fp8", True),
    ],
)
def test_a_name_is_compared_with_the_stored_form(
    wanted: str, method: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = SimpleNamespace(quantization_config={"quant_method": method})
    assert resolve(Quantize(wanted), torch.device("cpu"), torch.bfloat16, config) is Quantize.NONE
    assert (f"stored as {method}; HF_MODEL_QUANTIZE={wanted} is not applied" in caplog.text) is warned


@pytest.mark.parametrize(
    ("kind", "dtype", "int8", "int4"),
    [("T4", torch.float16, False, False), ("A10G", torch.float16, False, False), ("A10G", torch.bfloat16, True, True)],
)
def test_blocks_are_for_gpus_that_multiply_them(kind: str, dtype: torch.dtype, int8: bool, int4: bool) -> None:
    with pretend_cuda(gpus_of(kind)):
        eetq = resolve(Quantize.EETQ, torch.device("cuda"), dtype, nn.Module())
        major, minor = torch.cuda.get_device_capability()
        found = auto_forms(major * 10 + minor, in_bfloat16=dtype is torch.bfloat16)
    assert eetq is (Quantize.INT8_BLOCKS if int8 else Quantize.INT8)
    assert [form.name for form in found] == ["none", *(["int4"] if int4 else []), "bitsandbytes-nf4"]
    assert resolve(Quantize.EETQ, torch.device("cpu"), dtype, nn.Module()) is Quantize.INT8_BLOCKS


@pytest.mark.parametrize("kind", sorted(GPU_KINDS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["int4", "int8", "eetq"])
def test_the_table_of_memory_refuses_what_the_engine_refuses(kind: str, dtype: torch.dtype, name: str) -> None:
    (major, minor), _ = GPU_KINDS[kind]
    form = quantized(name, major * 10 + minor, in_bfloat16=dtype is torch.bfloat16)
    with pretend_cuda(gpus_of(kind)):
        if form.refused:
            with pytest.raises(BadConfiguration, match="computes in bfloat16"):
                resolve(Quantize(name), torch.device("cuda"), dtype, nn.Module())
            return
        found = resolve(Quantize(name), torch.device("cuda"), dtype, nn.Module())
    bits = {Quantize.INT4_BLOCKS: 4, Quantize.INT8_BLOCKS: 8}
    assert form.linears == (int4_bytes(bits[found]) if found in bits else 1.0)
    assert form.output == (int4_bytes(8) if found in bits else None)


def test_auto_prefers_the_four_bits_with_the_lower_perplexity() -> None:
    """As docs/quantisation.md has measured them."""
    page = (Path(__file__).parents[2] / "docs" / "quantisation.md").read_text()
    rows = dict(re.findall(r"\| `(int4|bitsandbytes-nf4)`[^|]*\| ([0-9.]+) \|", page))
    forms = [form.name for form in auto_forms(86) if form.name in rows]
    assert len(forms) == 2
    assert sorted(forms, key=lambda form: float(rows[form])) == forms


def test_a_form_that_was_weighed_before_is_loaded(tmp_path: Path) -> None:
    """Placement weighs; loading does not weigh again."""
    directory = tiny_models.save("llama", tmp_path)
    devices = Devices((torch.device("cpu"),), quantize=Quantize.NF4)
    for quantize, stored in ((Quantize.AUTO, "bitsandbytes-nf4"), (Quantize.NONE, "none")):
        config = EngineConfig(device="cpu", quantize=quantize, cache_dir=str(tmp_path))
        assert load(config, directory, lambda *_: None, devices).quantize == stored


@pytest.mark.parametrize("quantize", [Quantize.INT4_BLOCKS, Quantize.INT8_BLOCKS])
def test_a_kernel_that_multiplies_wrongly_is_found_at_the_start(
    quantize: Quantize, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a processor or a compiler would have to do wrong is done to the numbers the kernel is given."""
    right = choice.quantised_layer

    def wrong(weight: QuantisedWeight, *given: Any) -> Any:
        return right(replace(weight, scale=weight.scale * 1.1), *given)

    monkeypatch.setattr("handler.linears.quantised_linear.quantised_layer", wrong)
    model = open_model(tiny_llama, quantize).model
    assert set(kinds(model).values()) == {"Linear"}
    assert "stay dense: their products differ" in caplog.text
