"""Adapters over pages: each row's own, beside others and the base. On a pretended GPU and on the CPU emulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from handler.adapters.adapter import Adapter, BadAdapter, LowRank
from handler.runners.limits import CUDA_PAGE_SIZE
from handler.runners.paged.adapters.adapters import PagedAdapters
from handler.runners.paged.adapters.memory import AdapterRoom
from handler.runners.paged.runner import PagedRunner
from handler.runners.paged.step_buffers import Shape
from handler.runners.paged.sync_guard import host_sync
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams
from tests.support.local_engine import limits, loaded
from tests.support.pretend_cuda import Gpus, gpus_of, pretend_cuda, references
from tests.support.pretend_cuda.driver import ILLEGAL_ADDRESS, PretendDriver
from tests.support.pretend_cuda.graphs import graph
from tests.support.tiny_models import build

pytestmark = pytest.mark.usefixtures("one_thread")
ROOM = AdapterRoom(3, 8)
PROMPT = [5, 9, 17, 33, 41, 50, 7]


@pytest.fixture
def gpus() -> Iterator[Gpus]:
    with pretend_cuda(gpus_of("A10G")) as found:
        yield found


def adapter(model: Any, seed: int, rank: int = 4, only: str = "") -> Adapter:
    """Random additions to all linear layers whose path has `only`, large enough to change most tokens."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for path, module in model.named_modules():
        if ".layers." in path and only in path and isinstance(module, torch.nn.Linear):
            down = torch.randn(rank, module.in_features, generator=random) / 4
            found[path] = LowRank(down, torch.randn(module.out_features, rank, generator=random) / 4, 0.5)
    return Adapter(products=found, max_rank=rank)


def proved(model: Any, room: AdapterRoom | None = ROOM, **changes: int) -> PagedRunner:
    sizes = {"max_model_len": 64, "capacity_tokens": 4096, "page_size": CUDA_PAGE_SIZE, "max_num_seqs": 4}
    found = loaded(model)
    runner = PagedRunner(found, limits(**(sizes | changes)), True, room and PagedAdapters(found, room))
    runner.prove()
    return runner


def sequences(runner: PagedRunner, slots: list[int], length: int = len(PROMPT)) -> list[Sequence]:
    kv = runner.kv_manager(runner.limits)
    request = GenerateRequest("r", (PROMPT * 9)[:length], SamplingParams(max_tokens=9, seed=0), 1.0)
    found = [Sequence(request, b"", 0.0, 1.0, adapter_slot=slot) for slot in slots]
    assert all(kv.reserve(seq, length + 2) for seq in found)
    return found


def steps(runner: PagedRunner, slots: list[int]) -> Tensor:
    """Logits `[2, sequences, vocab]` of a prompt and of a decode step after it, one sequence for each slot."""
    seqs = sequences(runner, slots)
    prompts = [ScheduledSequence(seq, 0, len(PROMPT)) for seq in seqs]
    found = [runner.run(ScheduledBatch(prompts)).logits.float().cpu().clone()]
    for seq in seqs:
        seq.token_ids.append(3)
    found.append(
        runner.run(ScheduledBatch([ScheduledSequence(seq, len(PROMPT), 1) for seq in seqs])).logits.float().cpu()
    )
    return torch.stack(found)


def merged(model: Any, added: Adapter) -> Any:
    """The stock model with the additions in its weights, as peft merges them."""
    for path, product in added.products.items():
        weight = model.get_submodule(path).weight
        change = product.scaling * product.up @ product.down
        weight.data += change.to(weight.dtype)
    return model


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "mixtral", "gemma2"])
def test_rows_equal_a_model_with_the_adapter_merged(family: str) -> None:
    """On CPU in float32, by torch's operations: stock layers, fused names, routers of experts, gathered pages."""
    shape = {"num_hidden_layers": 2}
    adapters = [adapter(build(family, **shape), seed, rank) for seed, rank in ((1, 4), (2, 8))]
    expected = [merged(build(family, **shape), each) for each in adapters]
    runner = proved(build(family, **shape), page_size=16)
    for slot, each in enumerate(adapters):
        runner.load_adapter(slot, each)
    found = steps(runner, [1, -1, 0])
    for row, model in ((0, expected[1]), (1, build(family, **shape)), (2, expected[0])):
        with torch.inference_mode():
            logits = model(torch.tensor([[*PROMPT, 3]])).logits[0, -2:]
        torch.testing.assert_close(found[:, row], logits, rtol=1e-4, atol=1e-4)
    assert (found[:, 0] - found[:, 1]).abs().max() > 0.1


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_rows_keep_their_bits_beside_others(family: str, gpus: Gpus) -> None:
    """Over graphs, fused and not: adapters, the base and one adapter twice in one batch, and each alone."""
    model = build(family, num_hidden_layers=1)
    runner = proved(build(family, num_hidden_layers=1).to("cuda", torch.bfloat16))
    before = steps(runner, [-1])
    for slot in (0, 2):
        runner.load_adapter(slot, adapter(model, slot, 3 + slot))
    alone = {slot: steps(runner, [slot])[:, 0] for slot in (-1, 0, 2)}
    assert torch.equal(alone[-1], before[:, 0])
    gpus.reset()
    slots = [0, -1, 2, 0]
    mixed = steps(runner, slots)
    assert gpus.replays == 2
    for row, slot in enumerate(slots):
        assert torch.equal(mixed[:, row], alone[slot]), row
    assert len({tuple(rows.flatten().tolist()) for rows in alone.values()}) == 3
    assert set(runner.adapter_graphs.shapes) == set(runner.graphs.shapes)
    runner.adapter_graphs.drop("for comparison")
    assert torch.equal(steps(runner, slots), mixed)


def test_a_slot_shows_nothing_of_what_it_held(gpus: Gpus) -> None:
    model = build("llama", num_hidden_layers=1)
    runner = proved(build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16))
    base, small = steps(runner, [-1]), adapter(model, 2, 2, only="q_proj")
    runner.load_adapter(1, small)
    expected = steps(runner, [1])
    assert not torch.equal(expected, base)
    runner.load_adapter(0, adapter(model, 1, 8))
    assert not torch.equal(steps(runner, [0]), base)
    runner.unload_adapter(0)
    assert torch.equal(steps(runner, [0]), base)
    runner.load_adapter(0, small)
    assert torch.equal(steps(runner, [0]), expected)


def test_no_step_with_adapters_waits(gpus: Gpus) -> None:
    runner = proved(build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16))
    runner.load_adapter(0, adapter(build("llama", num_hidden_layers=1), 1))
    decodes = [ScheduledSequence(seq, len(PROMPT) - 1, 1) for seq in sequences(runner, [0, -1])]
    (seq,) = sequences(runner, [0], length=40)
    for graphs in (True, False):
        for items in (decodes, [*decodes, ScheduledSequence(seq, 4, 9)], [ScheduledSequence(seq, 0, 40)]):
            gpus.reset()
            runner.run(ScheduledBatch(items))
            assert not gpus.waits
            assert not gpus.uploads
            assert gpus.replays == graphs
        runner.adapter_graphs.drop("for this test")


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_the_guard_finds_no_wait_in_torchs_way(family: str) -> None:
    runner = proved(build(family, num_hidden_layers=1), page_size=16)
    with torch.inference_mode():
        for shape in (Shape(1), Shape(4), Shape(4, 64)):
            runner._buffers.fill(shape, [], [])
            assert host_sync(lambda shape=shape: runner.static_forward(shape, adapters=True)) is None


def test_drafts_are_verified_with_their_adapter(gpus: Gpus) -> None:
    runner = proved(build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16))
    runner.load_adapter(0, adapter(build("llama", num_hidden_layers=1), 1))
    one, other = sequences(runner, [0, -1])
    runner.run(ScheduledBatch([ScheduledSequence(seq, 0, len(PROMPT)) for seq in (one, other)]))
    for seq in (one, other):
        seq.token_ids.append(3)
    start = len(PROMPT)
    items = [ScheduledSequence(one, start, 2, (4,)), ScheduledSequence(other, start, 1)]
    drafted = runner.run(ScheduledBatch(items)).logits.float().cpu().clone()
    for row, token in enumerate((4, 5)):
        found = runner.run(ScheduledBatch([ScheduledSequence(one, start + row, 1)])).logits
        assert torch.equal(found[0].float().cpu(), drafted[row])
        one.token_ids.append(token)


def test_without_room_adapters_are_refused_by_name(gpus: Gpus) -> None:
    runner = proved(build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16), None)
    assert "MAX_ADAPTERS" in str(runner.adapters_obstacle)
    model = build("llama", num_hidden_layers=1)
    runner = proved(model.to("cuda", torch.bfloat16))
    assert runner.adapters_obstacle is None
    with pytest.raises(BadAdapter, match=r"q_proj has rank 9, and memory holds 8 \(MAX_ADAPTER_RANK\)"):
        runner.load_adapter(0, adapter(build("llama", num_hidden_layers=1), 1, 9))


@pytest.mark.parametrize("name", ["adapter_down", "adapter_up"])
def test_kernels_that_differ_are_not_used(
    name: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = references.REFERENCES[name]

    def lie(memory: references.Memory, grid: Any, threads: int, out: int, *rest: Any) -> None:
        honest(memory, grid, threads, out, *rest)
        memory.at(out, 1, dtype=torch.float32 if name == "adapter_down" else torch.bfloat16).add_(9.0)

    monkeypatch.setitem(references.REFERENCES, name, lie)
    runner = proved(build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16))
    assert "say something else than torch" in caplog.text
    assert runner.adapter_graphs
    runner.load_adapter(0, adapter(build("llama", num_hidden_layers=1), 1))
    monkeypatch.setitem(references.REFERENCES, name, honest)
    again = proved(build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16))
    again.load_adapter(0, adapter(build("llama", num_hidden_layers=1), 1))
    torch.testing.assert_close(steps(runner, [0, -1]), steps(again, [0, -1]), rtol=0.02, atol=0.05)


def test_without_a_capture_steps_with_adapters_are_eager(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of the base keep their graphs."""
    launch = PretendDriver.cuLaunchKernel

    def refuse(driver: PretendDriver, function: Any, *rest: Any) -> int:
        name = driver._functions[function.value - 1][1]
        return ILLEGAL_ADDRESS if graph.active and name == "adapter_up" else launch(driver, function, *rest)

    monkeypatch.setattr(PretendDriver, "cuLaunchKernel", refuse)
    runner = proved(build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16))
    assert "steps with adapters run without CUDA graphs: capture failed" in caplog.text
    assert runner.graphs
    runner.load_adapter(0, adapter(build("llama", num_hidden_layers=1), 1))
    gpus.reset()
    steps(runner, [0])
    assert not gpus.replays
    steps(runner, [-1])
    assert gpus.replays == 2
