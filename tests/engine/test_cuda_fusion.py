"""Fused decoder layers over pages: how many kernels they take, and what undoes them. On pretended GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from handler.kernels.cuda import layer_kernels
from handler.kernels.cuda.nvrtc import CompileError
from handler.runners.choice import start_paged
from handler.runners.limits import CUDA_PAGE_SIZE
from handler.runners.paged.fused_layers import FusedLayer, FusedNorm
from handler.runners.paged.runner import PagedRunner
from handler.runners.paged.step_buffers import Shape
from handler.runners.trial import Trial, Verdict
from handler.seam.config import EngineConfig
from handler.seam.status import StatusBoard
from tests.support.host_kernels import HostKernels
from tests.support.local_engine import limits, loaded
from tests.support.pretend_cuda import Gpus, gpus_of, pretend_cuda, references
from tests.support.pretend_cuda.driver import ILLEGAL_ADDRESS, PretendDriver
from tests.support.pretend_cuda.graphs import graph
from tests.support.pretend_cuda.tensor import PretendTensor
from tests.support.tiny_models import build

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def gpus() -> Iterator[Gpus]:
    with pretend_cuda(gpus_of("A10G")) as found:
        yield found


def runner_for(family: str, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> PagedRunner:
    model = build(family, **({"num_hidden_layers": 2} | changes)).to("cuda", dtype)
    sizes = {"max_model_len": 64, "capacity_tokens": 2048, "page_size": CUDA_PAGE_SIZE, "max_num_seqs": 2}
    return PagedRunner(loaded(model), limits(**sizes))


def proved(family: str, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> PagedRunner:
    runner = runner_for(family, dtype, **changes)
    runner.prove()
    return runner


def kernels_of_layers(runner: PagedRunner, gpus: Gpus) -> list[int]:
    """Kernels that each decoder layer launches in a decode step."""
    layers, counts = runner.loaded.model.model.layers, []

    def before(*_: object) -> None:
        gpus.reset()

    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    handles += [layer.register_forward_hook(lambda *_: counts.append(gpus.kernels.total())) for layer in layers]
    with torch.inference_mode():
        runner._buffers.fill(Shape(2), [], [])
        runner.static_forward(Shape(2))
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize(
    ("family", "stock", "fused"),
    [
        ("llama", 40, 10),
        ("qwen2", 40, 10),
        ("qwen3", 56, 10),
        ("mistral", 40, 10),
        ("gemma", 44, 10),
        ("gemma3_text", 84, 11),
    ],
)
def test_a_layer_takes_at_most_20_kernels(family: str, stock: int, fused: int, gpus: Gpus) -> None:
    runner = proved(family)
    assert runner.graphs, runner.decoding
    assert runner.verdict is Verdict.PASSED
    assert kernels_of_layers(runner, gpus) == [fused] * 2
    assert not gpus.waits
    runner.fusion.undo()
    assert kernels_of_layers(runner, gpus) == [stock] * 2


LIES = {
    "row_norm": "norm off by",
    "gate_times_up": "MLP off by",
    "rotate_and_store": "attention off by",
}


def lying(name: str, when: Callable[[tuple[int, int]], bool] = lambda grid: True) -> Callable[..., None]:
    """A kernel whose first results are too large by 1, where `when` says so of its grid."""
    honest = references.REFERENCES[name]

    def lie(memory: references.Memory, grid: tuple[int, int], threads: int, out: int, *rest: Any) -> None:
        honest(memory, grid, threads, out, *rest)
        if when(grid):
            memory.at(out, 64 * grid[0]).add_(1.0)

    return lie


def fused(runner: PagedRunner) -> list[nn.Module]:
    return [module for module in runner.loaded.model.modules() if isinstance(module, FusedLayer | FusedNorm)]


@pytest.mark.parametrize("name", LIES)
def test_a_kernel_that_differs_is_not_used(
    name: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stock modules stay, and graphs hold them."""
    monkeypatch.setitem(references.REFERENCES, name, lying(name))
    runner = proved("qwen3")
    assert not runner.fusion.num_fused
    assert runner.graphs
    assert LIES[name] in caplog.text
    assert not [module for module in fused(runner) if isinstance(module, FusedLayer)]
    assert Trial(runner.loaded, runner.limits).difference(runner) is None


def test_fused_layers_that_fail_the_trial_are_undone(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Right for the prompt on which they are compared, wrong for few rows."""
    monkeypatch.setitem(references.REFERENCES, "gate_times_up", lying("gate_times_up", lambda grid: grid[0] < 5))
    runner = proved("llama")
    assert "layers are not fused, because with them" in caplog.text
    assert not fused(runner)
    assert runner.graphs, "graphs of the stock layers"
    assert runner.verdict is Verdict.PASSED


def test_fused_layers_that_no_graph_takes_up_are_undone(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = PretendDriver.cuLaunchKernel

    def refuse(*arguments: Any) -> int:
        return ILLEGAL_ADDRESS if graph.active is not None else launch(*arguments)

    monkeypatch.setattr(PretendDriver, "cuLaunchKernel", refuse)
    runner = proved("llama")
    assert not fused(runner)
    assert runner.graphs
    assert runner.verdict is Verdict.PASSED


def no_compiler(_: str | None) -> Any:
    raise CompileError("libnvrtc.so.12 is not installed")


@pytest.mark.parametrize(
    ("name", "replacement", "reason"),
    [
        ("open_nvrtc", no_compiler, "libnvrtc.so.12 is not installed"),
        ("compile_cubin", lambda *_: b"\x7fELF" + bytes(9), "no kernel image is available"),
    ],
)
def test_without_a_compiler_or_a_driver_nothing_is_fused(
    name: str,
    replacement: Any,
    reason: str,
    gpus: Gpus,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(layer_kernels, name, replacement)
    runner = proved("llama")
    assert [reason in record.message for record in caplog.records if record.levelname == "WARNING"] == [True]
    assert not fused(runner)
    assert runner.graphs


class Died(BaseException):
    """The process is gone."""


def test_an_engine_that_died_while_it_fused_starts_without(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A kernel that reads foreign memory ends the process; the board outlives it."""
    board = StatusBoard(tmp_path / "board", create=True)
    config = EngineConfig(kv_capacity_tokens=1024, max_model_len=64, max_num_seqs=2)

    def start() -> int:
        found = start_paged(config, loaded(build("llama", num_hidden_layers=2).to("cuda", torch.bfloat16)), board)
        assert found is not None
        assert isinstance(found[0], PagedRunner)
        return found[0].fusion.num_fused

    assert start() == 2
    assert board["fusing"] == 0
    with monkeypatch.context() as patch:
        patch.setattr(PretendDriver, "cuLaunchKernel", lambda *_: (_ for _ in ()).throw(Died()))
        with pytest.raises(Died):
            start()
    for _ in range(2):
        assert start() == 0
    assert "an engine died" in caplog.text


@pytest.mark.parametrize("family", ["phi3", "cohere", "mixtral"])
def test_other_families_stay_as_they_are(family: str, gpus: Gpus) -> None:
    runner = runner_for(family)
    runner.fusion.apply(lambda _: pytest.fail("nothing is to be compared"))
    assert not fused(runner)


def test_joined_weights_take_no_more_memory(gpus: Gpus) -> None:
    runner = runner_for("llama")
    Trial(runner.loaded, runner.limits).prove(runner)
    before = gpus.all[0].allocated
    runner.fusion.apply(runner.run)
    assert runner.fusion.num_fused == 2
    assert gpus.all[0].allocated <= before + 4096, "the logits of the comparison, and no weight twice"
    layer = runner.loaded.model.model.layers[0]
    runner.fusion.undo()
    assert runner.loaded.model.model.layers[0] is layer.replaced
    assert Trial(runner.loaded, runner.limits).difference(runner) is None


def test_softcapped_scores_and_float16_over_gathered_pages() -> None:
    """A T4 has no paged attention kernel; everything else is fused there too."""
    with pretend_cuda(gpus_of("T4")):
        runner = proved("gemma2", torch.float16)
        assert runner.fusion.num_fused == 2
        assert Trial(runner.loaded, runner.limits).difference(runner) is None


@pytest.mark.needs("g++")
def test_a_model_runs_on_the_real_source(gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels' source, compiled for this processor, in prompts and captured decode steps."""
    run = HostKernels(tmp_path, torch.bfloat16)
    monkeypatch.setattr(layer_kernels, "open_driver", lambda: PretendDriver(PretendTensor.dispatcher, run))
    runner = proved("qwen3")
    assert runner.fusion.num_fused == 2
    assert runner.graphs, runner.decoding
