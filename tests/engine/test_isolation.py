"""One of sixteen goes wrong, at any place where the engine works for one request: fifteen answers are as when alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handler.engine import core as engine
from handler.engine import step
from handler.engine.forward_thread import ForwardThread
from handler.runners.choice import choose_runner
from handler.runners.runner import Runner, StepLogits
from handler.sampling import sampler
from handler.sampling.edits import row_edits
from handler.sampling.grammar import GrammarCompiler
from handler.scheduling import scheduler
from handler.scheduling.scheduler import ScheduledBatch
from handler.scheduling.sequence import Sequence
from handler.seam.config import EngineConfig
from handler.seam.errors import BadModel, EngineBroken
from handler.seam.protocol import ErrorCode, FinishReason, Grammar, GrammarKind
from handler.seam.status import StatusBoard
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, Outcome, limits, loaded

PROMPTS = [[(11 * i + 5 * j) % 250 for j in range(4 + i)] for i in range(15)]
CULPRIT = [201, 202, 203, 204, 205]
# The requests differ in what the sampler has to do for them.
SAMPLING: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "top_p": 0.9},
    {"repetition_penalty": 1.3, "num_logprobs": 2},
    {"logit_bias": {7: 3.0}, "min_tokens": 3},
]
EVERYTHING = {
    "temperature": 1.0,
    "repetition_penalty": 1.1,
    "num_logprobs": 2,
    "num_prompt_logprobs": 1,
    "grammar": Grammar(GrammarKind.REGEX, "[a-z ]{40}"),
}

StartEngine = Callable[..., LocalEngine]


@pytest.fixture
def start(tmp_path: Path, tiny_llama: Path) -> Iterator[StartEngine]:
    """An engine of 16 sequences over a runner of the given kind; on one thread, as the other tests of tiny models."""
    engines: list[LocalEngine] = []
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def make(kind: str = "slots", model: Any = None) -> LocalEngine:
        directory = tmp_path / str(len(engines))
        directory.mkdir()
        bounds = limits(max_num_seqs=16, max_model_len=128)
        runner = make_runner(kind, model or tiny_models.build("llama"))
        runner.prove()
        grammars = GrammarCompiler(tiny_llama / "tokenizer.json", tiny_models.VOCAB_SIZE, {tiny_models.EOS_ID})
        engines.append(LocalEngine(runner, bounds, directory, grammars=grammars))
        return engines[-1]

    yield make
    torch.set_num_threads(num_threads)
    for each in engines:
        each.core.scheduler.check_integrity()
        each.close()


def make_runner(kind: str, model: Any) -> Runner:
    from handler.runners.dynamic_cache.runner import DynamicCacheRunner
    from handler.runners.paged.runner import PagedRunner
    from handler.runners.slots.runner import SlotRunner

    bounds = limits(max_num_seqs=16, max_model_len=128)
    if kind == "dynamic_cache":
        return DynamicCacheRunner(loaded(model), bounds.max_model_len)
    if kind == "paged":
        return PagedRunner(loaded(model), bounds)
    return SlotRunner(loaded(model), 16, 128, num_stored_pages=32, page_size=16)


def submit_all(local: LocalEngine, count: int = 15) -> list[Outcome]:
    return [local.submit(prompt, max_tokens=12, seed=i, **SAMPLING[i % 4]) for i, prompt in enumerate(PROMPTS[:count])]


@pytest.fixture(scope="module")
def solo(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """What each request gets when it is alone."""
    bounds = limits(max_num_seqs=16, max_model_len=128)
    runner = make_runner("slots", tiny_models.build("llama"))
    runner.prove()
    local = LocalEngine(runner, bounds, tmp_path_factory.mktemp("solo"))
    found = []
    for i, prompt in enumerate(PROMPTS):
        outcome = local.submit(prompt, max_tokens=12, seed=i, **SAMPLING[i % 4])
        local.run()
        found.append(outcome.token_ids)
    local.close()
    return found


def belongs_to_culprit(*args: Any) -> bool:
    """True if an argument is, or holds, the culprit."""
    for arg in args:
        seq = getattr(arg, "seq", arg)
        if isinstance(seq, Sequence) and seq.request.prompt_token_ids == CULPRIT:
            return True
        if isinstance(arg, list) and belongs_to_culprit(*arg):
            return True
    return False


def fail_for_culprit(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: int = 0) -> list[int]:
    """`owner.name` raises when it is called for the culprit, from the call number `after` on. Counts those calls."""
    calls = [0]
    real = getattr(owner, name)

    def exploding(*args: Any, **kwargs: Any) -> Any:
        if belongs_to_culprit(*args):
            calls[0] += 1
            if calls[0] > after:
                raise ValueError("a secret of the implementation")
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, exploding)
    return calls


def check_only_culprit_failed(outcomes: list[Outcome], culprit: Outcome, solo: list[list[int]]) -> None:
    assert culprit.error is not None
    assert culprit.error.code is ErrorCode.INTERNAL
    assert "secret" not in culprit.error.message
    assert [outcome.token_ids for outcome in outcomes] == solo[: len(outcomes)]
    assert all(outcome.finish_reason is FinishReason.LENGTH for outcome in outcomes)


SITES = [
    (engine, "_step_output", 2),
    (engine.EngineCore, "_enqueue", 0),
    (engine.EngineCore, "_append", 2),
    (step, "score_prompt", 0),
    (sampler, "row_edit", 2),
    (sampler, "_outcome", 2),
    (row_edits, "_mask", 2),
    (scheduler, "finish_reason", 2),
    (scheduler.Scheduler, "advance", 0),
    (scheduler.Scheduler, "append_token", 2),
]


@pytest.mark.parametrize(("owner", "name", "after"), SITES, ids=lambda value: getattr(value, "__name__", value))
def test_an_exception_at_a_place_of_one_request(
    start: StartEngine,
    monkeypatch: pytest.MonkeyPatch,
    solo: list[list[int]],
    owner: Any,
    name: str,
    after: int,
) -> None:
    local = start()
    calls = fail_for_culprit(monkeypatch, owner, name, after)
    outcomes = submit_all(local)
    culprit = local.submit(CULPRIT, max_tokens=12, **EVERYTHING)
    local.run()
    assert calls[0] > after, "the fault must have been injected"
    check_only_culprit_failed(outcomes, culprit, solo)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.30 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    ],
    ids=["torch", "cublas", "runtime"],
)
def test_a_prompt_that_is_too_long_to_score_fails_alone(
    start: StartEngine, monkeypatch: pytest.MonkeyPatch, solo: list[list[int]], error: Exception
) -> None:
    """The newest sequences, which give way where a step needs too much, are not the cause here."""

    def score_prompt(*_: Any) -> None:
        raise error

    monkeypatch.setattr(step, "score_prompt", score_prompt)
    local = start()
    culprit = local.submit(CULPRIT, max_tokens=12, num_prompt_logprobs=0)
    outcomes = submit_all(local)
    local.run()
    assert culprit.error is not None
    assert culprit.error.code is ErrorCode.OUT_OF_MEMORY
    assert [outcome.token_ids for outcome in outcomes] == solo[: len(outcomes)]


def test_logits_of_a_prompt_that_do_not_fit_fail_their_request(
    start: StartEngine, monkeypatch: pytest.MonkeyPatch, solo: list[list[int]]
) -> None:
    """The forward pass makes them, so the step runs out of memory before anything is scored."""
    local = start()
    real = local.core.runner.run

    def run(batch: ScheduledBatch) -> StepLogits:
        if any(item.scores_prompt for item in batch.items):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(batch)

    monkeypatch.setattr(local.core.runner, "run", run)
    culprit = local.submit(CULPRIT, max_tokens=12, num_prompt_logprobs=0)
    outcomes = submit_all(local)
    local.run()
    assert culprit.error is not None
    assert culprit.error.code is ErrorCode.OUT_OF_MEMORY
    assert [outcome.token_ids for outcome in outcomes] == solo[: len(outcomes)]


def test_an_error_after_which_the_device_is_unusable_ends_the_engine(
    start: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = start()

    def explode(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    for owner, name in ((step, "score_prompt"), (step, "sample"), (local.core.runner, "run")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, explode)
            seq = local.submit(CULPRIT, max_tokens=2, num_prompt_logprobs=0)
            with pytest.raises(torch.AcceleratorError):
                local.run()
        local.run()
        assert seq.error is None


@pytest.mark.parametrize("place", ["mask", "accept"])
def test_an_exception_in_the_grammar(
    start: StartEngine, monkeypatch: pytest.MonkeyPatch, solo: list[list[int]], place: str
) -> None:
    from handler.sampling.grammar import TokenConstraint

    def explode(*_: Any) -> Any:
        raise ValueError("a secret of the implementation")

    local = start()
    monkeypatch.setattr(TokenConstraint, place, explode)
    outcomes = submit_all(local)
    culprit = local.submit(CULPRIT, max_tokens=12, **EVERYTHING)
    local.run()
    check_only_culprit_failed(outcomes, culprit, solo)


@pytest.mark.parametrize("kind", ["slots", "paged", "dynamic_cache"])
@pytest.mark.parametrize("written", [True, False])
def test_an_exception_in_the_forward_pass(
    start: StartEngine, monkeypatch: pytest.MonkeyPatch, solo: list[list[int]], kind: str, written: bool
) -> None:
    """Also one that comes when all keys and values have been written: the others are run again over them."""
    local = start(kind)
    real = local.core.runner.run
    raised = []

    def exploding(batch: ScheduledBatch) -> StepLogits:
        doomed = any(belongs_to_culprit(item) and item.seq.num_output_tokens >= 3 for item in batch.items)
        found = real(batch) if written or not doomed else None
        if doomed:
            raised.append(len(batch.items))
            raise ValueError("a secret of the implementation")
        assert found is not None
        return found

    monkeypatch.setattr(local.core.runner, "run", exploding)
    outcomes = submit_all(local)
    culprit = local.submit(CULPRIT, max_tokens=12)
    local.run()
    assert raised[0] == 16
    assert raised[-1] == 1
    check_only_culprit_failed(outcomes, culprit, solo)
    assert len(culprit.token_ids) == 3, "nothing of the failed step was sent"


def test_a_row_that_is_not_a_number(start: StartEngine, solo: list[list[int]]) -> None:
    model = tiny_models.build("llama")
    model.get_input_embeddings().weight.data[300] = float("nan")
    local = start(model=model)
    outcomes = submit_all(local)
    culprit = local.submit([*CULPRIT, 300, 7], max_tokens=12)
    local.run()
    assert culprit.error is not None
    assert culprit.error.code is ErrorCode.NUMERICS
    assert [outcome.token_ids for outcome in outcomes] == solo


@torch.inference_mode()
def poison(*tensors: torch.Tensor) -> None:
    for tensor in tensors:
        tensor.fill_(float("nan"))


def test_nothing_of_a_slot_reaches_the_next_sequence(start: StartEngine, solo: list[list[int]]) -> None:
    """What ran before left NaN in its slot, over all its length, and went away before anybody noticed."""
    local = start()
    for _ in range(2):
        long = [local.submit([(i + 3 * j) % 250 for j in range(90)], max_tokens=30) for i in range(16)]
        while not all(outcome.token_ids for outcome in long):
            local.step()
        for outcome in long:
            local.abort(outcome)
        for keys, values in local.core.runner.cache._layers.values():
            for seq in local.core.scheduler.running:
                poison(keys[seq.slot, : seq.num_computed], values[seq.slot, : seq.num_computed])
        for _ in range(5):
            local.step()
        assert local.core.scheduler.idle
        local.outcomes.clear()
        outcomes = submit_all(local)
        local.run()
        assert [outcome.token_ids for outcome in outcomes] == solo
        assert all(outcome.error is None for outcome in outcomes)


def test_a_page_that_held_nan_harms_nobody(start: StartEngine, solo: list[list[int]]) -> None:
    local = start("paged")
    for keys, values in local.core.runner.cache._layers.values():
        poison(keys[1:], values[1:])
    outcomes = submit_all(local)
    local.run()
    assert [outcome.token_ids for outcome in outcomes] == solo


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
        MemoryError(),
    ],
    ids=["cuda", "cuda-runtime", "cpu", "onednn", "python"],
)
@pytest.mark.parametrize("kind", ["slots", "dynamic_cache"])
def test_the_newest_gives_way_when_memory_runs_out(
    start: StartEngine, monkeypatch: pytest.MonkeyPatch, solo: list[list[int]], error: Exception, kind: str
) -> None:
    local = start(kind)
    real = local.core.runner.run

    def run(batch: ScheduledBatch) -> StepLogits:
        if len(batch.items) > 12:
            raise error
        return real(batch)

    monkeypatch.setattr(step, "_forward_thread", ForwardThread())
    monkeypatch.setattr(local.core.runner, "run", run)
    outcomes = submit_all(local)
    local.run()
    assert [outcome.token_ids for outcome in outcomes[:12]] == solo[:12]
    assert all(outcome.error and outcome.error.code is ErrorCode.OUT_OF_MEMORY for outcome in outcomes[12:])
    assert local.core.scheduler.idle


def test_a_thread_that_can_compile_no_kernel_is_left(
    start: StartEngine, monkeypatch: pytest.MonkeyPatch, solo: list[list[int]]
) -> None:
    """oneDNN's error stays with the thread; the number of torch's threads must not."""
    local = start()
    real, spoiled, seen = local.core.runner.run, {threading.get_ident()}, set()

    def run(batch: ScheduledBatch) -> StepLogits:
        if threading.get_ident() in spoiled:
            raise RuntimeError("could not create a primitive")
        seen.add((threading.get_ident(), torch.get_num_threads()))
        return real(batch)

    monkeypatch.setattr(step, "_forward_thread", ForwardThread())
    monkeypatch.setattr(local.core.runner, "run", run)
    outcomes = submit_all(local)
    local.run()
    assert [outcome.token_ids for outcome in outcomes] == solo
    ((first, num_threads),) = seen
    assert num_threads == torch.get_num_threads()
    spoiled.add(first)
    outcomes = submit_all(local)
    local.run()
    assert [outcome.token_ids for outcome in outcomes] == solo
    assert len(seen) == 2


def test_a_new_thread_computes_on_the_same_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's current device is a thread's, and 0 in a new one."""
    found: list[tuple[int, str]] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: found.append((device, threading.current_thread().name))
    )
    forward = ForwardThread()
    forward.replace_soon()
    name = forward.call(lambda: threading.current_thread().name)
    assert name != threading.current_thread().name
    assert found == [(3, name)]


def test_an_engine_in_which_nothing_survives_says_so(start: StartEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not answer every request with an error for ever while /ping says 200."""
    local = start()

    def explode(_batch: ScheduledBatch) -> StepLogits:
        raise ValueError("broken")

    monkeypatch.setattr(local.core.runner, "run", explode)
    local.submit(PROMPTS[0])
    with pytest.raises(EngineBroken):
        local.run()


def test_a_prefix_that_cannot_be_copied_is_computed(start: StartEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127]")

    local = start()
    prompt = list(range(40))
    first = local.submit(prompt, max_tokens=8)
    local.run()
    monkeypatch.setattr(local.core.runner.cache, "restore_pages", no_memory)
    second = local.submit(prompt, max_tokens=8)
    local.run()
    assert second.token_ids == first.token_ids
    assert second.num_cached_tokens == 0
    monkeypatch.setattr(local.core.runner.cache, "save_page", no_memory)
    fails = local.submit(list(range(100, 140)), max_tokens=8)
    local.run()
    assert fails.error is not None
    monkeypatch.undo()
    again = local.submit(list(range(100, 140)), max_tokens=8)
    local.run()
    assert again.num_cached_tokens == 0, "a page that was not copied must not be found"
    assert again.error is None


def test_weights_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    model = tiny_models.build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = float("nan")
    board = StatusBoard(tmp_path / "board", create=True)
    with pytest.raises(BadModel, match=r"model\.layers\.1\.mlp\.down_proj\.weight holds numbers that are not finite"):
        choose_runner(EngineConfig(max_model_len=64, kv_capacity_tokens=512), loaded(model), board)
