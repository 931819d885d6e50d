"""The start-up trial: what its script runs, the faults it finds on every runner, and what is undone after one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from handler.linears import choice
from handler.linears.onednn_linear import OneDnnLinear
from handler.linears.packed_linear import PackedLinear
from handler.runners import choice as runner_choice
from handler.runners.dynamic_cache.runner import DynamicCacheRunner
from handler.runners.paged import varlen
from handler.runners.paged.runner import PagedRunner
from handler.runners.runner import Runner, StepLogits
from handler.runners.slots.fused_layers import FusedDecoderLayer
from handler.runners.slots.fused_stack import FusedStack
from handler.runners.slots.runner import SlotRunner
from handler.runners.trial import Trial
from handler.scheduling.scheduler import ScheduledBatch
from handler.seam.config import EngineConfig, KVLayout
from handler.seam.errors import UnsupportedModel
from handler.seam.status import StatusBoard
from tests.support import tiny_models
from tests.support.local_engine import limits, loaded
from tests.support.packed import pack_linears

PAGE = 16
RUNNERS: dict[str, Callable[[Any], Runner]] = {
    "slots": lambda model: SlotRunner(loaded(model), 4, 256, num_stored_pages=8, page_size=PAGE),
    "paged": lambda model: PagedRunner(loaded(model), limits(page_size=PAGE, capacity_tokens=512)),
    "dynamic_cache": lambda model: DynamicCacheRunner(loaded(model), 256),
}


def recorded(runner: Runner) -> list[list[tuple[str, int, int]]]:
    """Will hold, for each pass, the sequences that run, their first positions and numbers of tokens."""
    steps: list[list[tuple[str, int, int]]] = []
    run = runner.run

    def recording(batch: ScheduledBatch) -> StepLogits:
        steps.append([(item.seq.request_id, item.start, item.num_tokens) for item in batch.items])
        return run(batch)

    runner.run = recording  # type: ignore[method-assign]
    return steps


@pytest.mark.parametrize("kind", RUNNERS)
def test_the_script_has_chunks_joins_leaves_and_a_preemption(kind: str) -> None:
    runner = RUNNERS[kind](tiny_models.build("llama"))
    steps = recorded(runner)
    runner.prove()
    assert steps[0] == [("0", 0, 2)]
    assert steps[1][0] == ("0", 2, 1)
    assert [name for name, *_ in steps[1]] == ["0", "1"], "the second joins while the first prefills"
    assert any([name for name, *_ in step] == ["0", "1", "2"] for step in steps)
    assert [name for name, *_ in steps[-1]] == ["0"], "the shorter ones leave first"
    starts = [start for step in steps for name, start, _ in step if name == "0"]
    again = next(i for i in range(1, len(starts)) if starts[i] < starts[i - 1])
    # Slots and pages have the first page of it from prefix reuse; transformers' cache begins anew.
    assert starts[again] == (0 if kind == "dynamic_cache" else PAGE)


@pytest.mark.parametrize("kind", RUNNERS)
def test_the_script_has_chunks_that_continue_over_a_page(kind: str) -> None:
    """More than one query, fewer than keys, within a prompt and after a reused prefix."""
    runner = RUNNERS[kind](tiny_models.build("llama"))
    steps = recorded(runner)
    runner.prove()
    chunks = [(start, num) for step in steps for name, start, num in step if name == "0" and start and num > 1]
    assert any(start < PAGE < start + num for start, num in chunks)
    assert kind == "dynamic_cache" or any(start == PAGE for start, _ in chunks)


def test_a_kernel_that_aligns_a_later_chunk_with_the_first_key_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels differ in this: the last query may stand at the last key, or the first at the first."""
    visible = varlen._visible

    def upper_left(num_queries: int, num_keys: int, *rest: Any) -> torch.Tensor:
        if num_queries == 1:
            return visible(num_queries, num_keys, *rest)
        return visible(num_keys, num_keys, *rest)[:num_queries]

    monkeypatch.setattr(varlen, "_visible", upper_left)
    with pytest.raises(UnsupportedModel, match="logits differ from eager attention: sequence 0"):
        RUNNERS["paged"](tiny_models.build("llama")).prove()


def swapped(batch: ScheduledBatch, found: StepLogits) -> StepLogits:
    """Rows of two sequences are mixed up."""
    return replace(found, logits=found.logits.roll(1, 0)) if len(found.samples) > 1 else found


def prompt_row(batch: ScheduledBatch, found: StepLogits) -> StepLogits:
    """A row in the middle of a prompt is wrong."""
    for item, rows in found.prompt:
        if item.num_tokens > 4:
            rows[2] = rows[2] * 1.5
    return found


def after_preemption(batch: ScheduledBatch, found: StepLogits) -> StepLogits:
    """Only what follows a recomputed prompt is wrong."""
    for row, item in zip(found.logits, found.samples, strict=True):
        if item.seq.num_preemptions:
            row += torch.linspace(-2, 2, len(row))
    return found


def not_a_number(batch: ScheduledBatch, found: StepLogits) -> StepLogits:
    """One logit of one row is NaN."""
    if len(found.samples) > 1:
        found.logits[1, 5] = float("nan")
    return found


@pytest.mark.parametrize("fault", [swapped, prompt_row, after_preemption, not_a_number], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", RUNNERS)
def test_a_fault_is_found_on_every_runner(kind: str, dtype: torch.dtype, fault: Callable[..., StepLogits]) -> None:
    runner = RUNNERS[kind](tiny_models.build("llama").to(dtype))
    run = runner.run

    def faulty(batch: ScheduledBatch) -> StepLogits:
        found = run(batch)
        clones = [(item, rows.clone()) for item, rows in found.prompt]
        with torch.inference_mode():
            return fault(batch, replace(found, logits=found.logits.clone(), prompt=clones))

    runner.run = faulty  # type: ignore[method-assign]
    with pytest.raises(UnsupportedModel, match="logits differ from eager attention: sequence"):
        runner.prove()


@pytest.mark.parametrize("kind", ["slots", "paged"])
def test_keys_of_another_sequence_are_found(kind: str) -> None:
    """The third sequence writes its keys where the second has its own."""
    runner = RUNNERS[kind](tiny_models.build("llama"))
    run = runner.run

    def misplaced(batch: ScheduledBatch) -> StepLogits:
        by_name = {item.seq.request_id: item for item in batch.items}
        if {"1", "2"} <= by_name.keys():
            target, other = by_name["2"].seq, by_name["1"].seq
            own = target.slot, target.block_table
            target.slot, target.block_table = other.slot, other.block_table
            found = run(batch)
            target.slot, target.block_table = own
            return found
        return run(batch)

    runner.run = misplaced  # type: ignore[method-assign]
    trial = Trial(runner.loaded, limits(page_size=PAGE, capacity_tokens=512, max_num_seqs=4))
    with pytest.raises(UnsupportedModel):
        trial.prove(runner)


def test_the_model_keeps_its_own_attention_after_a_failure() -> None:
    model = tiny_models.build("llama")
    own = model.config._attn_implementation
    runner = RUNNERS["slots"](model)

    def fails(_batch: ScheduledBatch) -> StepLogits:
        raise RuntimeError("no")

    runner.run = fails  # type: ignore[method-assign]
    with pytest.raises(UnsupportedModel, match="llama over slots: RuntimeError: no"):
        runner.prove()
    assert model.config._attn_implementation == own


def test_one_sequence_at_a_time_is_enough() -> None:
    runner = SlotRunner(loaded(tiny_models.build("llama")), 1, 64)
    steps = recorded(runner)
    runner.prove()
    assert {len(step) for step in steps} == {1}
    assert {step[0][0] for step in steps} == {"0", "1", "2"}


CASES = [(torch.float32, 0), (torch.bfloat16, 0), (torch.bfloat16, 4), (torch.float32, 4)]


@pytest.mark.parametrize(("dtype", "bits"), CASES, ids=str)
@pytest.mark.needs("avx512_bf16")
def test_acceleration_that_fails_the_trial_is_undone_to_the_very_modules(
    dtype: torch.dtype, bits: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32, "tie_word_embeddings": not bits}
    model = tiny_models.build("llama", **sizes).to(dtype)
    if bits:
        assert pack_linears(model, bits, keep_dense=True)
    modules = dict(model.named_modules())
    weights = {name: module.weight.clone() for name, module in modules.items() if hasattr(module, "weight")}
    accelerated: list[type] = []
    difference = Trial.difference

    def differs_first(self: Trial, runner: Runner) -> str | None:
        if not accelerated:
            accelerated.extend({type(module) for module in model.modules()})
            return "it is off"
        return difference(self, runner)

    monkeypatch.setattr(Trial, "difference", differs_first)
    runner = SlotRunner(loaded(model), 4, 256)
    runner.accelerate()
    runner.prove()
    assert {FusedDecoderLayer, FusedStack} & set(accelerated)
    assert bits or OneDnnLinear in accelerated or nn.Linear not in accelerated
    assert "not accelerated for this processor, because then it fails" in caplog.text
    assert dict(model.named_modules()) == modules
    for name, weight in weights.items():
        assert torch.equal(model.get_submodule(name).weight, weight), name
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert not any(module._prepacked for module in modules.values() if isinstance(module, PackedLinear))


def test_a_linear_layer_with_a_forward_or_hooks_of_its_own_is_left_alone() -> None:
    model = tiny_models.build("llama")
    layers = model.model.layers
    own, hooked = layers[0].self_attn.o_proj, layers[1].mlp.up_proj
    plain = own.forward
    own.forward = lambda x: plain(x) * 2
    hooked.register_forward_hook(lambda _module, _args, out: out * 2)
    runner = SlotRunner(loaded(model), 4, 256)
    runner.accelerate()
    runner.prove()
    assert model.get_submodule("model.layers.0.self_attn.o_proj") is own
    assert model.get_submodule("model.layers.1.mlp.up_proj") is hooked
    assert isinstance(model.model.layers[2], FusedDecoderLayer | FusedStack)


def test_an_exception_on_the_way_leaves_the_stock_model(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some layers are replaced by then: oneDNN, say, finds no memory for a prepacked weight."""
    model = tiny_models.build("llama")
    modules = dict(model.named_modules())
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    calls = iter(range(100))
    prepacked = choice.prepacked

    def fails_late(*args: Any) -> Any:
        if next(calls) == 9:
            raise RuntimeError("could not create a primitive")
        return prepacked(*args)

    monkeypatch.setattr(choice, "prepacked", fails_late)
    runner = SlotRunner(loaded(model), 4, 256)
    runner.accelerate()
    runner.prove()
    assert "could not create a primitive" in caplog.text
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())


def test_what_was_replaced_is_freed_once_the_trial_has_passed() -> None:
    model = tiny_models.build("llama")
    layer = weakref.ref(model.model.layers[0])
    runner = SlotRunner(loaded(model), 4, 256)
    runner.accelerate()
    assert layer() is not None
    runner.prove()
    gc.collect()
    assert layer() is None


def test_a_linear_layer_that_two_modules_share_is_prepacked_once() -> None:
    shared = nn.Linear(64, 64)
    model = nn.Sequential(nn.Sequential(shared), nn.Sequential(shared))
    x = torch.randn(3, 64)
    expected = model(x)
    replaced: list[choice.Replaced] = []
    choice.prepack_linears(model, replaced)
    assert model[0][0] is model[1][0] is not shared
    torch.testing.assert_close(model(x), expected)
    for one in replaced:
        one.restore()
    assert model[0][0] is model[1][0] is shared
    assert torch.equal(model(x), expected)


def test_a_failed_runner_is_gone_before_the_next_one_takes_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[weakref.ref[PagedRunner]] = []
    init = PagedRunner.__init__

    def remembers(self: PagedRunner, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        made.append(weakref.ref(self))

    def refuses(_self: PagedRunner) -> None:
        raise UnsupportedModel("not on this device")

    def start_slots(*_: Any) -> Any:
        assert made[0]() is None, "its pages are still allocated"
        raise UnsupportedModel("slots neither")

    monkeypatch.setattr(PagedRunner, "__init__", remembers)
    monkeypatch.setattr(PagedRunner, "prove", refuses)
    monkeypatch.setattr(runner_choice, "_start_slots", start_slots)
    found = loaded(tiny_models.build("llama"))
    config = EngineConfig(kv_layout=KVLayout.AUTO, kv_capacity_tokens=1024, max_model_len=128)
    monkeypatch.setattr(runner_choice, "_wants_pages", lambda *_: True)
    runner_choice.choose_runner(config, found, StatusBoard(tmp_path / "board", create=True))
    assert made


@pytest.mark.parametrize("window", [5, 40, 200])
@pytest.mark.parametrize("kind", ["slots", "paged"])
def test_windows_are_crossed_by_every_sequence(kind: str, window: int) -> None:
    """Long texts are compared where they choose tokens, short ones in every row; a window one token short is found."""
    model = tiny_models.build("mistral", sliding_window=window)
    page = 64 if window == 200 else PAGE
    runners: dict[str, Callable[[], Any]] = {
        "slots": lambda: SlotRunner(loaded(model), 4, 256, num_stored_pages=8, page_size=page),
        "paged": lambda: PagedRunner(loaded(model), limits(page_size=page, capacity_tokens=1024)),
    }
    runner = runners[kind]()
    steps = recorded(runner)
    runner.prove()
    ends = {name: max(start + num for step in steps for other, start, num in step if other == name) for name in "012"}
    assert window == 5 or min(ends.values()) > window // 2
    wrong = runners[kind]()
    wrong._windows = {layer: size - 1 for layer, size in wrong._windows.items()} or dict.fromkeys(range(4), window - 1)
    with pytest.raises(UnsupportedModel, match="logits differ from eager attention: sequence 0"):
        wrong.prove()
