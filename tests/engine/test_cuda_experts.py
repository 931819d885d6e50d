"""Quantised experts on pretended GPUs: without a wait for the host, in three ways that agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handler.linears.cuda.int4_experts import Int4Experts
from handler.linears.cuda.int4_linear import fits_int4
from handler.linears.experts.matrices import DenseMatrices
from handler.linears.experts.quantised_experts import matrix_names, ways
from handler.model.loader import LoadedModel, load
from handler.runners.choice import choose_runner
from handler.runners.experts import most_static_tokens, use_static_experts
from handler.runners.paged.runner import PagedRunner
from handler.seam.config import EngineConfig, Quantize
from handler.seam.status import StatusBoard
from tests.engine.test_quantised_experts import BITS, PROMPTS, dequantised, experts_of, gap, logits, save
from tests.support.pretend_cuda import Gpus, gpus_of, pretend_cuda
from tests.support.tiny_models import every_expert

pytestmark = pytest.mark.usefixtures("one_thread")

GRAPHS = "decoding by CUDA graphs"


@pytest.fixture
def gpu() -> Iterator[Gpus]:
    with pretend_cuda(gpus_of("A10G")) as gpus:
        yield gpus


def config_of(folder: Path, quantize: Quantize = Quantize.INT4_BLOCKS) -> EngineConfig:
    return EngineConfig(
        cache_dir=str(folder),
        max_model_len=256,
        kv_capacity_tokens=4096,
        max_num_seqs=2,
        quantize=quantize,
        num_threads=1,
    )


def opened(folder: Path, family: str, quantize: Quantize = Quantize.INT4_BLOCKS, **changes: Any) -> LoadedModel:
    save(family, folder, **changes)
    return load(config_of(folder, quantize), folder, lambda *_: None)


@pytest.mark.parametrize(
    ("kind", "family", "quantize"),
    [
        ("A10G", "mixtral", Quantize.INT4_BLOCKS),
        ("A10G", "deepseek_v3", Quantize.INT4_BLOCKS),
        ("A100", "gpt_oss", Quantize.INT8_BLOCKS),
        ("H100", "qwen3_moe", Quantize.INT4_BLOCKS),
    ],
)
def test_a_start_with_graphs(kind: str, family: str, quantize: Quantize, tmp_path: Path) -> None:
    stock = dequantised(save(family, tmp_path, **every_expert(family)), BITS[quantize], fits_int4)
    with pretend_cuda(gpus_of(kind)):
        loaded = load(config_of(tmp_path, quantize), tmp_path, lambda *_: None)
        for experts in experts_of(loaded.model):
            assert all(isinstance(getattr(experts, name), Int4Experts) for name in matrix_names(experts))
        found = logits_on_gpu(loaded)
        runner, _ = choose_runner(config_of(tmp_path), loaded, StatusBoard(tmp_path / "board", create=True))
        assert isinstance(runner, PagedRunner)
        assert runner.decoding == GRAPHS
        assert max(shape.num_tokens for shape in runner.graphs.shapes) <= most_static_tokens(loaded.model) == 256
    assert gap(found, logits(stock, PROMPTS[2])) < 0.03, "more than bfloat16 rounds"


@torch.inference_mode()
def logits_on_gpu(loaded: LoadedModel) -> torch.Tensor:
    tokens = torch.tensor([PROMPTS[2]], device=loaded.device)
    found: torch.Tensor = loaded.model(input_ids=tokens, use_cache=False).logits[0]
    return found.float().cpu()


@pytest.mark.parametrize("tokens", [1, 2, 3, 20, 300])
def test_no_decode_step_waits_for_the_host(tokens: int, gpu: Gpus, tmp_path: Path) -> None:
    """Nor a batch larger than the usual bound, where the configuration allows it."""
    loaded = opened(tmp_path, "qwen3_moe", num_experts=12)
    assert use_static_experts(loaded, 300)
    block = loaded.model.model.layers[0].mlp
    hidden = torch.randn(1, tokens, loaded.model.config.hidden_size).to("cuda", torch.bfloat16)
    gpu.reset()
    with torch.inference_mode():
        block(hidden)
    assert not gpu.waits
    assert not gpu.uploads


@pytest.mark.parametrize("quantize", [Quantize.INT4_BLOCKS, Quantize.INT8_BLOCKS])
@pytest.mark.parametrize(
    ("family", "changes"), [("qwen3_moe", {}), ("gpt_oss", {}), ("gpt_oss", {"intermediate_size": 48})]
)
def test_the_three_ways_agree(
    family: str, changes: dict[str, int], quantize: Quantize, gpu: Gpus, tmp_path: Path
) -> None:
    """For more pairs of token and expert than a tile has rows, for more tokens than the packed product takes, and where
    one of the matrices is dense, as no kernel takes its shape."""
    experts = experts_of(opened(tmp_path, family, quantize, num_experts_per_tok=3, **changes).model)[0]
    assert isinstance(experts.down_proj, DenseMatrices) == bool(changes)
    for tokens in (1, 7, 130):
        hidden = torch.randn(tokens, experts.gate_up_proj.expert(0).in_features).to("cuda", torch.bfloat16)
        index = torch.stack([torch.randperm(4)[:3] for _ in range(tokens)]).to("cuda")
        grouped, *others = (way(experts, hidden, index).cpu().float() for way in ways(hidden.device))
        assert grouped.shape == (tokens, 3, hidden.shape[1])
        assert all(gap(other, grouped) < 0.01 for other in others)


def test_few_kernels_gather_what_a_token_needs(gpu: Gpus, tmp_path: Path) -> None:
    experts = experts_of(opened(tmp_path, "qwen3_moe", num_experts=12, moe_intermediate_size=64).model)[0]
    hidden = torch.randn(2, 64).to("cuda", torch.bfloat16)
    index, weights = torch.tensor([[3, 11], [0, 3]]).to("cuda"), torch.ones(2, 2).to("cuda", torch.bfloat16)
    gpu.reset()
    experts(hidden, index, weights)
    assert gpu.kernels["aten::_weight_int4pack_mm"] == 2
    assert gpu.kernels.total() < 30
    gpu.reset()
    experts(hidden.repeat(8, 1), index.repeat(8, 1), weights.repeat(8, 1))
    assert gpu.kernels["aten::_weight_int4pack_mm"] == 1 + 12, "all first products at once, each second one alone"
    assert gpu.kernels["aten::clone"] == 1, "the rows of all second products at once, and no scales"


@pytest.mark.parametrize("wrong", ["_tile", "every"])
def test_experts_that_compute_otherwise_are_made_dense(
    wrong: str, gpu: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The trial could not tell: its reference has the same experts."""
    right = getattr(Int4Experts, wrong)
    monkeypatch.setattr(Int4Experts, wrong, lambda *given: right(*given).roll(1, 0))
    stock = dequantised(save("gpt_oss", tmp_path, **every_expert("gpt_oss")), 4)
    loaded = load(config_of(tmp_path), tmp_path, lambda *_: None)
    assert "quantised experts are made dense" in caplog.text
    assert all(isinstance(each.down_proj, torch.nn.Parameter) for each in experts_of(loaded.model))
    assert gap(logits_on_gpu(loaded), logits(stock, PROMPTS[2])) < 0.03
    assert use_static_experts(loaded, 2), "as dense ones"


def test_all_experts_take_the_memory_that_the_table_says(gpu: Gpus, tmp_path: Path) -> None:
    experts = experts_of(opened(tmp_path, "mixtral").model)[0]
    for name in matrix_names(experts):
        matrices = getattr(experts, name)
        held = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors_of(matrices)}
        weights = 4 * matrices.expert(0).out_features * matrices.expert(0).in_features
        assert sum(held.values()) == 0.625 * weights


def tensors_of(matrices: Any) -> list[torch.Tensor]:
    modules = [*matrices.modules(), *matrices._whole]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return [getattr(each, "numbers", each) for each in found]
