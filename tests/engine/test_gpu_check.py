"""`make gpu-check`: whole on a pretended GPU, and its stand-in for torch's paged attention."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.attention import varlen

from handler.runners.limits import CUDA_PAGE_SIZE
from handler.runners.paged.varlen import torch_varlen, varlen_attn_cpu
from tests.support.pretend_cuda import Gpus, gpus_of, pretend_cuda
from tools.gpu_check import varlen_shim
from tools.gpu_check.plan import STEPS
from tools.gpu_check.setting import Setting
from tools.gpu_check.steps.graphs import graphs

ROOT = Path(__file__).resolve().parents[2]


def test_it_runs_whole_on_a_pretended_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.pretend_cuda.run", "H200", "tools.gpu_check.__main__"]
    environment = os.environ | {"OUT": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, "--tiny", "--budget", "500"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    log = (tmp_path / "gpu_check.log").read_text()
    assert not [line for line in lines if line.get("ok") is False], log
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "gpu_check.jsonl").read_text() == run.stdout
    assert lines[-1]["step"] == "summary"
    shown = {step.name: [line["what"] for line in lines if line["step"] == step.name] for step in STEPS}
    assert [name for name, whats in shown.items() if len(whats) < 2 or "left out" in whats] == []


@pytest.fixture
def shim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    """A torch without pages: the shim stands where its function was."""
    monkeypatch.setattr(varlen, "varlen_attn", varlen.varlen_attn)
    torch_varlen.cache_clear()
    with pretend_cuda(gpus_of("H200")) as gpus:
        varlen_shim.install()
        yield gpus
    torch_varlen.cache_clear()


def test_the_shim_is_for_a_torch_without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not varlen_shim.is_needed()
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, *, scale=None, window_size=(-1, -1): query)
    assert varlen_shim.is_needed()


@pytest.mark.parametrize("window", [(-1, 0), (-1, -1), (7, 0)])
def test_the_shim_says_what_the_emulator_says(window: tuple[int, int], shim: Gpus) -> None:
    """The same numbers to the last bit: only places differ. Keys that do not exist are not read."""
    queries, keys, pages = [1, 5, 40], [300, 5, 290], [[4, 2], [1, 0], [3, 5]]
    pool = torch.full((2, 6, CUDA_PAGE_SIZE, 2, 16), float("nan"))
    for row, used in enumerate(keys):
        for place in range(used):
            page, offset = pages[row][place // CUDA_PAGE_SIZE], place % CUDA_PAGE_SIZE
            pool[:, page, offset] = torch.randn(2, 2, 16)
    query = torch.randn(sum(queries), 4, 16)
    starts = [torch.tensor([0, *torch.tensor(column).cumsum(0)], dtype=torch.int32) for column in (queries, keys)]
    table, used_k = torch.tensor(pages, dtype=torch.int32), torch.tensor(keys, dtype=torch.int32)
    bounds = (max(queries), 2 * CUDA_PAGE_SIZE)
    floats = [tensor.bfloat16() for tensor in (query, *pool)]
    found = torch_varlen()(
        *(tensor.cuda() for tensor in (*floats, *starts)),
        *bounds,
        return_aux=varlen.AuxRequest(lse=True),
        scale=0.25,
        window_size=window,
        enable_gqa=True,
        seqused_k=used_k.cuda(),
        block_table=table.cuda(),
    )
    exact = [tensor.float().nan_to_num() for tensor in floats]
    expected = varlen_attn_cpu(
        *exact, *starts, *bounds, scale=0.25, window_size=window, enable_gqa=True, seqused_k=used_k, block_table=table
    )
    assert torch.equal(found[0].cpu(), expected[0].bfloat16())
    assert torch.equal(found[1].cpu(), expected[1])


def test_keys_that_lie_side_by_side_are_left_there(shim: Gpus) -> None:
    """Without a table, starts are the caller's. Two sequences of 3 and 2 keys, 4 places apart."""
    query, key, value = (torch.randn(rows, 2, 8).bfloat16().cuda() for rows in (2, 8, 8))
    starts, used = torch.tensor([0, 4, 8], dtype=torch.int32), torch.tensor([3, 2], dtype=torch.int32)
    queries = torch.tensor([0, 1, 2], dtype=torch.int32)
    found = torch_varlen()(query, key, value, queries.cuda(), starts.cuda(), 1, 4, scale=0.5, seqused_k=used.cuda())
    for row, (first, length) in enumerate([(0, 3), (4, 2)]):
        q, k, v = (
            tensor.cpu().float() for tensor in (query[row], key[first : first + length], value[first : first + length])
        )
        weights = (0.5 * torch.einsum("hd,khd->hk", q, k)).softmax(-1)
        torch.testing.assert_close(
            found[row].cpu().float(), torch.einsum("hk,khd->hd", weights, v), atol=1e-2, rtol=1e-2
        )


@pytest.mark.usefixtures("one_thread")
def test_graphs_are_captured_over_the_shim(shim: Gpus, tmp_path: Path) -> None:
    lines = list(graphs(Setting(tmp_path, tiny=True, is_shimmed=True)))
    assert not [line for line in lines if line.ok is False]
    runner = next(line for line in lines if line.what == "runner")
    assert runner.details["decoding"] == "decoding by CUDA graphs"
    assert all(line.details["shim_ms"] > 0 for line in lines if line.what == "step")
    assert shim.kernels["aten::_flash_attention_forward"] > 0
    assert shim.kernels["torch_attn::_varlen_attn"] == 0
