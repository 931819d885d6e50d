"""Quantised linear layers on pretended GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from handler.model.loader import load
from handler.runners.choice import choose_runner
from handler.seam.config import EngineConfig
from handler.seam.status import StatusBoard
from tests.support.fp8_checkpoint import save_fp8
from tests.support.pretend_cuda import gpus_of, pretend_cuda

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", ["T4", "A10G", "L4", "H100"])
@pytest.mark.parametrize("block", [32, None])
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
        runner, _ = choose_runner(config, loaded, StatusBoard(tmp_path / "board", create=True))
        assert runner.name == "paged"
    assert caplog.text.count("dequantised at the start: 2 bytes a weight in memory instead of 1") == 1
