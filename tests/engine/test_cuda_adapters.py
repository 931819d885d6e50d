"""Adapters over pages: each row's own, beside others and the base. On a pretended GPU and on the CPU emulator."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
import zmq
from accelerate import dispatch_model
from torch import Tensor

from handler import startup
from handler.adapters.adapter import Adapter, BadAdapter, LowRank, TokenRows
from handler.kernels.cuda.adapter_kernels import AdapterKernels
from handler.linears.cuda.fp8_linear import Fp8Linear
from handler.linears.cuda.int4_linear import Int4Linear
from handler.linears.ordered_linear import OrderedLinear
from handler.runners.choice import choose_runner, start_paged
from handler.runners.limits import CUDA_PAGE_SIZE, bytes_per_token
from handler.runners.paged.adapters.adapters import PagedAdapters
from handler.runners.paged.adapters.memory import AdapterMemory, AdapterRoom
from handler.runners.paged.adapters.product import add_products
from handler.runners.paged.adapters.trial_adapter import kernels_differ
from handler.runners.paged.runner import PagedRunner
from handler.runners.paged.step_buffers import Shape
from handler.runners.paged.sync_guard import host_sync
from handler.runners.trial import Verdict
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.config import AdapterSource, EngineConfig, KVLayout
from handler.seam.errors import BadConfiguration
from handler.seam.protocol import GenerateRequest, SamplingParams, StepOutput, decode_from_engine, encode
from handler.seam.status import StatusBoard
from model_memory.adapter_bytes import adapter_bytes
from tests.support.adapters import gap, peft_model, write
from tests.support.local_engine import limits, loaded
from tests.support.pretend_cuda import Gpus, gpus_of, pretend_cuda, references
from tests.support.pretend_cuda.driver import ILLEGAL_ADDRESS, PretendDriver
from tests.support.pretend_cuda.graphs import graph
from tests.support.tiny_models import VOCAB_SIZE, build, save

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


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("qwen3", {}),
        ("phi3", {}),
        ("mixtral", {}),
        ("gemma2", {}),
        ("mistral", {"sliding_window": 4}),
    ],
)
def test_rows_equal_a_model_with_the_adapter_merged(family: str, changes: dict[str, Any]) -> None:
    """On CPU in float32, by torch's operations: stock layers, fused names, routers of experts, gathered pages,
    windows that are shorter than the prompt."""
    shape = {"num_hidden_layers": 2} | changes
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


@pytest.mark.parametrize("family", ["llama", "phi3", "glm4", "qwen3", "gpt2", "deepseek_v3"])
def test_memory_is_counted_before_the_download_as_it_is_taken(family: str) -> None:
    model = build(family)
    held = AdapterMemory(model, ROOM, torch.bfloat16).num_bytes
    counted = adapter_bytes(model.config.to_dict(), ROOM.num_slots, ROOM.max_rank)
    assert counted == (held if family in {"llama", "phi3", "glm4", "qwen3"} else pytest.approx(held, rel=0.5))


def test_keys_take_what_adapters_leave(gpus: Gpus, tmp_path: Path) -> None:
    """And a room that no GPU has ends the start with a sentence."""
    board = StatusBoard(tmp_path / "board", create=True)
    given = loaded(build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16))
    gpus.all[0].total = gpus.all[0].allocated + (1 << 28)
    huge = EngineConfig(reserves_adapters=True, max_adapters=1024, max_adapter_rank=4096)
    with pytest.raises(BadConfiguration, match="MAX_ADAPTERS=1024 of MAX_ADAPTER_RANK=4096"):
        start_paged(huge, given, board)
    config = EngineConfig(
        max_model_len=64, max_num_seqs=1, reserves_adapters=True, max_adapters=8, max_adapter_rank=4096
    )
    found = start_paged(config, given, board)
    assert found is not None
    runner, bounds = found
    assert isinstance(runner, PagedRunner)
    assert runner.adapters is not None
    held = runner.adapters.memory.num_bytes
    assert held > 50 << 20
    assert 50 << 20 < bounds.capacity_tokens * bytes_per_token(runner.loaded) < (1 << 28) - held


def fp8(linear: torch.nn.Linear) -> torch.nn.Module:
    return Fp8Linear((linear.weight.float() * 64).to(torch.float8_e4m3fn), torch.full((1,), 1 / 64).cuda(), None)


def ordered(linear: torch.nn.Linear) -> torch.nn.Module:
    """Stored with act-order; the layer inside is none of the model's."""
    order = torch.arange(linear.in_features).flip(0)
    return OrderedLinear(Int4Linear.of_weight(linear.weight.flip(1), 4, None), order.cuda())


@pytest.mark.parametrize("quantised", [fp8, ordered])
def test_adapters_over_quantised_weights(quantised: Callable[[torch.nn.Linear], torch.nn.Module]) -> None:
    """The base's product stays as it is; the addition has the unrounded input."""
    added = adapter(build("llama", num_hidden_layers=1), 1)
    expected = build("llama", num_hidden_layers=1)
    with pretend_cuda(gpus_of("H100")):
        model = build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16)
        for path in added.products:
            parent, _, name = path.rpartition(".")
            layer = quantised(model.get_submodule(path))
            setattr(model.get_submodule(parent), name, layer)
            expected.get_submodule(path).weight.data = layer.weight.float().cpu()
        runner = proved(model)
        assert runner.fusion.num_fused == 1
        before = steps(runner, [-1])
        runner.load_adapter(0, added)
        found = steps(runner, [0, -1])
        assert torch.equal(found[:, 1], before[:, 0])
        assert set(runner.adapter_graphs.shapes) == set(runner.graphs.shapes)
    for row, each in ((0, merged(copy.deepcopy(expected), added)), (1, expected)):
        with torch.inference_mode():
            logits = each(torch.tensor([[*PROMPT, 3]])).logits[0, -2:]
        assert float((found[:, row] - logits).norm() / logits.norm()) < 0.1, "what is added is more than the base"


def test_adapters_over_layers_of_bitsandbytes() -> None:
    """On a GPU these stay bitsandbytes' own; here they are on the CPU, which computes them in float32."""
    expected, model = (build("llama", num_hidden_layers=1) for _ in range(2))
    added = adapter(model, 1)
    for path in added.products:
        parent, _, name = path.rpartition(".")
        weight = model.get_submodule(path).weight.data
        layer = bitsandbytes.nn.Linear4bit(weight.shape[1], weight.shape[0], False, torch.float32, quant_type="nf4")
        layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
        setattr(model.get_submodule(parent), name, layer.to("cpu"))
        held = layer.weight
        expected.get_submodule(path).weight.data = bitsandbytes.functional.dequantize_4bit(held, held.quant_state)
    runner = proved(model, page_size=16)
    assert set(runner.adapters.memory.modules) == set(added.products)  # type: ignore[union-attr]
    runner.load_adapter(0, added)
    found = steps(runner, [0, -1])
    for row, each in ((0, merged(copy.deepcopy(expected), added)), (1, expected)):
        with torch.inference_mode():
            logits = each(torch.tensor([[*PROMPT, 3]])).logits[0, -2:]
        torch.testing.assert_close(found[:, row], logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_outputs", [1, 7, 6])
def test_products_of_odd_sizes_go_through_the_kernels(
    gpus: Gpus, num_outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the gate of a shared expert, which has one output."""
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.ModuleDict()])})
    model["layers"][0]["gate"] = torch.nn.Linear(64, num_outputs, False)  # type: ignore[index]
    memory = AdapterMemory(model.to("cuda", torch.bfloat16), ROOM, torch.bfloat16)
    ((path, held),) = memory.modules.items()
    memory.load(1, {path: LowRank(torch.randn(4, 64), torch.randn(num_outputs, 4), 0.5)})
    slots = torch.tensor([1, -1, 1], dtype=torch.int32).to("cuda")
    rows, base = torch.randn(3, 64).to("cuda", torch.bfloat16), torch.randn(3, num_outputs).to("cuda", torch.bfloat16)
    expected, found = base.clone(), base.clone()
    add_products(None, expected, rows, held.stack, slots)
    monkeypatch.setattr("handler.runners.paged.adapters.product._by_torch", None)
    add_products(AdapterKernels(torch.bfloat16), found, rows, held.stack, slots)
    torch.testing.assert_close(found.float().cpu(), expected.float().cpu(), rtol=0.02, atol=0.02)
    assert torch.equal(found[1].cpu(), base[1].cpu())
    assert not torch.equal(found[0].cpu(), base[0].cpu())


def everything(model: Any, seed: int) -> Adapter:
    """Products of a few layers, a bias of each kind, rows of the embedding, and the output layer's weight."""
    random = torch.Generator().manual_seed(seed)
    products, attention = adapter(model, seed, 2, only="q_proj").products, "model.layers.0.self_attn"
    sizes = {"q_proj": 64, "k_proj": 32, "o_proj": 64}
    biases = {f"{attention}.{name}": torch.randn(size, generator=random) for name, size in sizes.items()}
    rows = TokenRows(torch.tensor([9, 17]), torch.randn(2, 64, generator=random) / 8)
    return Adapter(
        products=products,
        bias_changes=biases,
        weights={"lm_head": torch.randn(VOCAB_SIZE, 64, generator=random) / 8},
        token_rows={"model.embed_tokens": rows},
        max_rank=2,
    )


def changed(model: Any, added: Adapter) -> Any:
    """The stock model with all of that in its weights."""
    merged(model, added)
    for path, change in added.bias_changes.items():
        model.get_submodule(path).bias = torch.nn.Parameter(change)
    (rows,) = added.token_rows.values()
    model.model.embed_tokens.weight.data[rows.token_ids] = rows.values
    model.lm_head.weight = torch.nn.Parameter(added.weights["lm_head"])
    return model


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_no_product_is_added_without_graphs(device: str, request: pytest.FixtureRequest) -> None:
    """Over fused layers too. The base and products alone keep their graphs and bits, and all goes at the end."""
    stock, added = build("llama", num_hidden_layers=1), everything(build("llama", num_hidden_layers=1), 4)
    with torch.inference_mode():
        expected = changed(build("llama", num_hidden_layers=1), added)(torch.tensor([[*PROMPT, 3]])).logits[0, -2:]
    if device == "cuda":
        request.getfixturevalue("gpus")
    dtype, tolerance = (torch.float32, 1e-4) if device == "cpu" else (torch.bfloat16, 0.1)
    page_size = 16 if device == "cpu" else CUDA_PAGE_SIZE
    runner = proved(build("llama", num_hidden_layers=1).to(device, dtype), page_size=page_size)
    runner.load_adapter(2, adapter(stock, 1))
    before = steps(runner, [-1, 2, -1])
    runner.load_adapter(0, added)
    found = steps(runner, [-1, 2, 0])
    assert torch.equal(found[:, :2], before[:, :2])
    torch.testing.assert_close(found[:, 2], expected, rtol=tolerance, atol=tolerance)
    runner.unload_adapter(0)
    assert torch.equal(steps(runner, [-1, 2, 0]), before)


def test_without_room_adapters_are_refused_by_name(gpus: Gpus) -> None:
    runner = proved(build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16), None)
    assert "ENABLE_ADAPTERS" in str(runner.adapters_obstacle)
    held = PagedAdapters(runner.loaded, ROOM)
    with pytest.raises(BadAdapter, match=r"rank 9; the largest here is 8 \(MAX_ADAPTER_RANK\)"):
        held.load(0, adapter(build("llama", num_hidden_layers=1), 1, 9))


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("layout", [KVLayout.AUTO, KVLayout.SLOTS])
def test_whatever_runs_on_a_gpu_takes_adapters_if_there_is_room(
    gpus: Gpus, tmp_path: Path, family: str, layout: KVLayout
) -> None:
    """Keys leave memory for them to every runner."""
    capacities = []
    for reserves in (False, True):
        board = StatusBoard(tmp_path / f"board{reserves}", create=True)
        given = loaded(build(family, num_hidden_layers=1).to("cuda", torch.bfloat16))
        gpus.all[0].total = gpus.all[0].allocated + (1 << 28)
        asked = EngineConfig(
            max_model_len=64, max_num_seqs=1, kv_layout=layout, reserves_adapters=reserves, max_adapter_rank=4096
        )
        runner, bounds = choose_runner(asked, given, board)
        assert (runner.adapters_obstacle is None) is reserves
        capacities.append(bounds.capacity_tokens + bounds.num_stored_pages * bounds.page_size)
        del runner, given
    assert capacities[1] < capacities[0]


def test_pages_on_a_cpu_take_adapters(tmp_path: Path) -> None:
    """No memory is set aside for anything else there."""
    board = StatusBoard(tmp_path / "board", create=True)
    config = EngineConfig(kv_layout=KVLayout.PAGED, max_model_len=64, max_num_seqs=1, kv_capacity_tokens=256)
    runner, _ = choose_runner(config, loaded(build("llama", num_hidden_layers=1)), board)
    assert (runner.name, runner.adapters_obstacle) == ("paged", None)


def test_a_whole_engine_serves_what_it_starts_with(tmp_path: Path) -> None:
    """From files to answers over the socket: of the base, and of an adapter that peft wrote."""
    model = build("llama", num_hidden_layers=2)
    made = write(model, tmp_path / "made", target_modules="all-linear")
    save("llama", tmp_path / "model", num_hidden_layers=2)
    config = EngineConfig(
        model=str(tmp_path / "model"),
        cache_dir=str(tmp_path),
        socket_path=str(tmp_path / "socket"),
        num_threads=1,
        reserves_adapters=True,
        adapters=(AdapterSource("a", str(made)),),
        max_adapters=2,
        kv_capacity_tokens=1024,
        max_model_len=64,
        max_num_seqs=2,
    )
    with pretend_cuda(gpus_of("A10G")), ExitStack() as closing:
        core, card = startup.start(config, StatusBoard(tmp_path / "board", create=True))
        closing.callback(core.socket.close)
        assert (card.device, card.runner) == ("cuda:0", "paged")
        client = closing.enter_context(zmq.Context()).socket(zmq.DEALER)
        closing.enter_context(client)
        client.connect(f"ipc://{config.socket_path}")
        sampling = SamplingParams(max_tokens=6, seed=0, temperature=0.0, ignore_eos=True)
        for name in (None, "a"):
            client.send(encode([GenerateRequest(str(name), PROMPT, sampling, 60.0, adapter=name)]))
        said: dict[str, list[int]] = {"None": [], "a": []}
        deadline = time.monotonic() + 60
        while any(len(each) < 6 for each in said.values()):
            assert time.monotonic() < deadline
            core.step(0.01)
            while client.poll(0):
                for message in decode_from_engine(client.recv()):
                    assert isinstance(message, StepOutput)
                    said[message.request_id] += message.token_ids
        assert core.adapters is not None
        assert set(core.runner.adapter_graphs.shapes) == set(core.runner.graphs.shapes)  # type: ignore[attr-defined]
        list(core.adapters.stop())
    assert gap(peft_model(model, made), PROMPT, said["a"]) < 0.05
    assert gap(model, PROMPT, said["None"]) < 0.05
    assert gap(model, PROMPT, said["a"]) > 0.2, "the adapter changes the answer"


def lying(name: str) -> Callable[..., None]:
    """A kernel whose first number is too large by 9."""
    honest = references.REFERENCES[name]

    def lie(memory: references.Memory, grid: Any, threads: int, out: int, *rest: Any) -> None:
        honest(memory, grid, threads, out, *rest)
        memory.at(out, 1, dtype=torch.float32 if name == "adapter_down" else torch.bfloat16).add_(9.0)

    return lie


def test_a_kernel_that_differs_is_found(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = AdapterKernels(torch.bfloat16)
    assert not kernels_differ(kernels, torch.bfloat16)
    for name in ("adapter_down", "adapter_up"):
        with monkeypatch.context() as patch:
            patch.setitem(references.REFERENCES, name, lying(name))
            assert kernels_differ(kernels, torch.bfloat16)


def test_torch_takes_the_place_of_kernels_that_differ(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In graphs too."""
    monkeypatch.setitem(references.REFERENCES, "adapter_up", lying("adapter_up"))
    runner = proved(build("llama", num_hidden_layers=1).to("cuda", torch.bfloat16))
    assert "say something else than torch" in caplog.text
    assert runner.adapter_graphs
    added = adapter(build("llama", num_hidden_layers=1), 1)
    runner.load_adapter(0, added)
    found = steps(runner, [-1, 0])[:, 1]
    with torch.inference_mode():
        logits = merged(build("llama", num_hidden_layers=1), added)(torch.tensor([[*PROMPT, 3]])).logits[0, -2:]
    assert float((found - logits).norm() / logits.norm()) < 0.05


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
    assert runner.verdict is Verdict.FELL_BACK
    assert runner.graphs
    runner.load_adapter(0, adapter(build("llama", num_hidden_layers=1), 1))
    gpus.reset()
    steps(runner, [0])
    assert not gpus.replays
    steps(runner, [-1])
    assert gpus.replays == 2


def test_layers_over_two_gpus() -> None:
    """By torch's operations: own kernels are loaded on one GPU."""
    added = adapter(build("llama", num_hidden_layers=2), 1)
    with pretend_cuda(gpus_of("A10G", 2)):
        model = build("llama", num_hidden_layers=2).to(torch.bfloat16)
        places = {"model.embed_tokens": "cuda:0", "model.rotary_emb": "cuda:0", "model.norm": "cuda:1"}
        places |= {"model.layers.0": "cuda:0", "model.layers.1": "cuda:1", "lm_head": "cuda:1"}
        found = loaded(dispatch_model(model, places, force_hooks=True))
        found = dataclasses.replace(found, other_devices=(torch.device("cuda", 1),))
        bounds = limits(max_model_len=64, capacity_tokens=4096, page_size=CUDA_PAGE_SIZE, max_num_seqs=2)
        runner = PagedRunner(found, bounds, True, PagedAdapters(found, ROOM))
        runner.prove()
        before = steps(runner, [-1, -1])
        runner.load_adapter(0, added)
        logits = steps(runner, [0, -1])
        assert torch.equal(logits[:, 1], before[:, 1])
    with torch.inference_mode():
        expected = merged(build("llama", num_hidden_layers=2), added)(torch.tensor([[*PROMPT, 3]])).logits[0, -2:]
    assert float((logits[:, 0] - expected).norm() / expected.norm()) < 0.05
