"""Mixtures of experts over quantised matrices, on CPU and on pretended GPUs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from handler.linears.choice import is_packed
from handler.linears.cuda.int4_linear import Int4Linear
from handler.linears.experts.matrices import ExpertMatrices
from handler.linears.experts.quantised_experts import is_experts, matrix_names
from handler.linears.packed_linear import fits
from handler.linears.weight_blocks import quantise
from handler.model.loader import LoadedModel, load
from handler.seam.config import EngineConfig, Quantize
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine
from tests.support.pretend_cuda import gpus_of, pretend_cuda

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES = ["mixtral", "qwen3_moe", "qwen2_moe", "gpt_oss", "olmoe", "deepseek_v3"]
FORMATS = Path(__file__).resolve().parents[1] / "data" / "formats"
BITS = {Quantize.INT4_BLOCKS: 4, Quantize.INT8_BLOCKS: 8}
PROMPTS = [[5, 9, 17, 33, 41, 50, 7], [8, 3, 22], [(11 * i + 5) % 250 for i in range(30)]]


def save(family: str, directory: Path, **changes: Any) -> Any:
    """A checkpoint of two layers in bfloat16; the model itself, in float32."""
    model: Any = tiny_models.build(family, num_hidden_layers=2, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("proj_bias"):
                parameter.normal_(0, 0.1)
            parameter.copy_(parameter.bfloat16())
    copy.deepcopy(model).bfloat16().save_pretrained(directory)
    tiny_models.write_tokenizer(directory)
    return model


def opened(directory: Path, quantize: Quantize, dtype: str, device: str = "cpu") -> LoadedModel:
    config = EngineConfig(quantize=quantize, device=device, dtype=dtype, cache_dir=str(directory))
    return load(config, directory, lambda *_: None)


def experts_of(model: Any) -> list[Any]:
    return [module for module in model.modules() if is_experts(module)]


@torch.no_grad()
def dequantised(model: Any, bits: int, fitting: Callable[[int, int], bool] = fits) -> Any:
    """`model` over the weights that quantised layers and experts stand for; `fitting` shapes are quantised."""
    output = model.get_output_embeddings()
    for module in model.modules():
        if type(module) is nn.Linear and fitting(*module.weight.shape):
            module.weight.copy_(quantise(module.weight, 8 if module is output else bits).dequantise(torch.float32))
        if is_experts(module):
            for weight in (getattr(module, name) for name in matrix_names(module)):
                for each in weight.mT if module.is_transposed else weight:
                    if not fitting(*each.shape):
                        continue
                    each.copy_(quantise(each.contiguous(), bits).dequantise(torch.float32))
    return model


@torch.inference_mode()
def logits(model: Any, ids: list[int]) -> Tensor:
    found: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return found.float()


def all_are_quantised(experts: Any) -> bool:
    """Both matrices of every expert; `ExpertMatrices` may hold a dense one."""
    matrices = [getattr(experts, name) for name in matrix_names(experts)]
    layers = [each.expert(i) for each in matrices if isinstance(each, ExpertMatrices) for i in range(each.num_experts)]
    return len(layers) == 2 * matrices[0].num_experts and all(
        is_packed(layer) or isinstance(layer, Int4Linear) for layer in layers
    )


def gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("quantize", BITS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_experts_multiply_by_the_dequantised_weights(
    family: str, dtype: str, quantize: Quantize, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each token takes every expert, so that no rounding turns a router's choice."""
    stock = dequantised(save(family, tmp_path, **tiny_models.every_expert(family)), BITS[quantize])
    with caplog.at_level("INFO", "handler"):
        model = opened(tmp_path, quantize, dtype).model
    found = experts_of(model)
    assert found
    assert all(map(all_are_quantised, found))
    assert f"matrices of all experts quantised: {2 * len(found)} of {BITS[quantize]} bits" in caplog.text
    expected = logits(stock, PROMPTS[2])
    rounded = copy.deepcopy(stock).bfloat16()
    close = 1e-5 if dtype == "float32" else 1.5 * gap(logits(rounded, PROMPTS[2]), expected)
    assert gap(logits(model, PROMPTS[2]), expected) <= close


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_a_token_does_not_depend_on_its_neighbours(family: str, dtype: str, activation: str, tmp_path: Path) -> None:
    """Also where torch divides the rows between threads, inside one of them."""
    save(family, tmp_path, hidden_act=activation, num_experts_per_tok=1)
    experts = experts_of(opened(tmp_path, Quantize.INT4_BLOCKS, dtype).model)[0]
    torch.set_num_threads(2)  # the fixture `one_thread` puts back what there was
    tokens, width = 801, experts.hidden_size if family == "gpt_oss" else experts.hidden_dim
    hidden = torch.randn(tokens, width).to(experts_dtype := getattr(torch, dtype))
    for chosen in (1, 2, 4):
        index = torch.stack([torch.randperm(4)[:chosen] for _ in range(tokens)])
        weights = torch.rand(tokens, chosen).to(experts_dtype)
        together = experts(hidden, index, weights)
        for part in (*((i, i + 1) for i in range(0, tokens, 57)), (3, 5), (7, 40), (0, 400)):
            alone = experts(*(each[slice(*part)].clone() for each in (hidden, index, weights)))
            assert torch.equal(alone, together[slice(*part)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_the_same_alone_and_in_a_batch(
    family: str, dtype: str, tmp_path: Path, start_engine: Callable[..., LocalEngine]
) -> None:
    stock = dequantised(save(family, tmp_path, **tiny_models.every_expert(family)), 4)
    engine = start_engine(opened(tmp_path, Quantize.INT4_BLOCKS, dtype).model)
    found = []
    for prompt in PROMPTS:
        outcome = engine.submit(prompt, max_tokens=6)
        engine.run()
        found.append(outcome.token_ids)
    outcomes = [engine.submit(prompt, max_tokens=6) for prompt in PROMPTS]
    engine.run()
    assert [outcome.token_ids for outcome in outcomes] == found
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        before = logits(stock, prompt + tokens)[-7:-1]
        chosen = before.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert bool((before.amax(1) - chosen <= 0.05 * before.abs().amax(1)).all())


@pytest.mark.parametrize("name", ["gptq-experts", "mxfp4"])
@pytest.mark.parametrize("kind", [None, "A10G"])
def test_stored_experts_are_multiplied_as_stored(name: str, kind: str | None, tmp_path: Path) -> None:
    """One tensor for each expert and matrix, or one of three dimensions that lies as the parameter does not."""
    expected = load_file(FORMATS / name / "expected.safetensors")
    config = EngineConfig(device="cuda" if kind else "cpu", dtype="bfloat16", cache_dir=str(tmp_path))
    with pretend_cuda(gpus_of(kind)) if kind else nullcontext():
        loaded = load(config, FORMATS / name, lambda *_: None)
        (experts,) = experts_of(loaded.model)
        assert all_are_quantised(experts)
        with torch.inference_mode():
            found = loaded.model(input_ids=expected["input_ids"][None].to(loaded.device)).logits[0].float().cpu()
    assert gap(found, expected["logits"]) < 1e-2


@pytest.mark.parametrize("width", [48, 44])
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_matrices_that_no_kernel_takes_stay_dense(
    family: str, width: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The experts' width is the inputs of the second product and half of the outputs of the first."""
    stock = dequantised(save(family, tmp_path, **tiny_models.every_expert(family) | {"intermediate_size": width}), 4)
    model = opened(tmp_path, Quantize.INT4_BLOCKS, "float32").model
    for experts in experts_of(model):
        if width == 48:
            first, second = (getattr(experts, name).expert(0) for name in matrix_names(experts))
            assert (is_packed(first), is_packed(second)) == (True, False)
            assert not all_are_quantised(experts)
        else:
            assert all(isinstance(getattr(experts, name), nn.Parameter) for name in matrix_names(experts))
    assert gap(logits(model, PROMPTS[2]), logits(stock, PROMPTS[2])) < 1e-5
    assert f"model.layers.0.mlp.experts.down_proj (64 x {width})" in caplog.text
