"""Quantised linear layers on pretended GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from handler.linears.fp8_linear import Fp8Linear
from handler.model.loader import load
from handler.runners.choice import choose_runner
from handler.runners.paged.runner import PagedRunner
from handler.seam.config import EngineConfig
from handler.seam.status import StatusBoard
from tests.support.fp8_checkpoint import save_fp8
from tests.support.pretend_cuda import gpus_of, pretend_cuda

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("kind", "block"), [("T4", None), ("A10G", None), ("L4", 32), ("H100", 32)])
def test_an_fp8_checkpoint_is_dequantised_without_the_hub_s_package(
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
    assert caplog.text.count("dequantised at the start: 2 bytes a weight in memory instead of 1") == 1


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
    assert "14 linear layers multiply in fp8" in caplog.text
    assert "dequantised" not in caplog.text


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
