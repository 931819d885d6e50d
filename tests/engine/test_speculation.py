"""Whatever is guessed, each request gets the tokens, reasons and log-probabilities that it gets without guesses."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch

from handler.runners.paged.runner import PagedRunner
from handler.runners.runner import StepLogits
from handler.sampling.grammar import GrammarCompiler
from handler.scheduling.scheduler import ScheduledBatch
from handler.scheduling.sequence import Sequence
from handler.speculation.drafter import NgramDrafter
from tests.support import tiny_models
from tests.support.guesses import Oracle, comparable, differences
from tests.support.local_engine import LocalEngine, limits, loaded
from tests.support.pretend_cuda import Gpus, gpus_of, pretend_cuda
from tests.support.schedules import CROWDS, engine

pytestmark = pytest.mark.usefixtures("one_thread")

_NUM_SCHEDULES = 3


@pytest.mark.parametrize("kind", CROWDS)
def test_guesses_change_nothing(
    kind: str, tmp_path: Path, solos: dict[str, LocalEngine], grammars: GrammarCompiler
) -> None:
    guessing = engine(tmp_path / "guessing", kind, grammars)
    drafter = guessing.core.scheduler.drafter = Oracle(0)
    try:
        for seed in range(_NUM_SCHEDULES):
            assert differences(guessing, drafter, solos[guessing.core.runner.name], seed) == []
        board, scheduler = guessing.core.board, guessing.core.scheduler
        assert board["generated_tokens"] > 1.3 * board["steps"]
        assert drafter.num_proposed > board["generated_tokens"] / 2
        assert scheduler.num_preemptions > 0 or "preempting" not in kind
        assert (scheduler.kv.prefix_hit_tokens > 0) == kind.startswith(("reusing", "paged"))
    finally:
        guessing.close()


def test_the_engine_drafts_from_the_text(tmp_path: Path, solos: dict[str, LocalEngine]) -> None:
    """A request whose answer repeats itself, with the drafter that SPECULATE asks for and steps that cost nothing."""
    guessing = engine(tmp_path / "guessing", "roomy")
    drafter = guessing.core.scheduler.drafter = NgramDrafter(8)
    drafter.observe(1, 1.0)
    drafter.observe(9, 1.0)
    drafter.observe = lambda num_rows, seconds: None  # type: ignore[method-assign]
    sampling = {"max_tokens": 60, "logit_bias": dict.fromkeys((1, 2, 3), 90.0), "repetition_penalty": 0.7}
    try:
        found = guessing.submit([1, 2, 3] * 10, **sampling)
        guessing.run()
        expected = solos["slots"].submit([1, 2, 3] * 10, **sampling)
        solos["slots"].run()
        assert comparable(found) == comparable(expected)
        assert guessing.core.board["steps"] < 30
    finally:
        guessing.close()


@pytest.mark.parametrize("own", [True, False], ids=["spoils the rows beside it", "spoils itself"])
@pytest.mark.parametrize("kind", ["roomy", "paged"])
def test_a_draft_that_is_no_number_costs_a_guess(
    kind: str, own: bool, tmp_path: Path, solos: dict[str, LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not a kernel multiplies a draft's NaN by 0 for the rows before it."""
    guessing = engine(tmp_path / "guessing", kind)
    runner = guessing.core.runner
    real = runner.run

    @torch.inference_mode()
    def run(batch: ScheduledBatch) -> StepLogits:
        found = real(batch)
        ends = accumulate(1 + len(item.draft) for item in found.samples)
        for item, end in zip(found.samples, ends, strict=True):
            if 300 in item.draft:
                found.logits[end - 1 - own * len(item.draft) : end] = float("nan")
        return found

    def propose(seqs: list[Sequence], max_tokens: list[int], budget: int) -> list[tuple[int, ...]]:
        return [(300,) * (most > 0 and len(seq.token_ids) % 2) for seq, most in zip(seqs, max_tokens, strict=True)]

    monkeypatch.setattr(runner, "run", run)
    drafter = guessing.core.scheduler.drafter = Oracle(0)
    monkeypatch.setattr(drafter, "propose", propose)
    prompts = [[5, 9, 17], [3, 1, 4, 1]]
    try:
        found = [guessing.submit(prompt) for prompt in prompts]
        guessing.run()
        solo = solos[runner.name]
        for prompt, outcome in zip(prompts, found, strict=True):
            expected = solo.submit(prompt)
            solo.run()
            assert (outcome.token_ids, outcome.error) == (expected.token_ids, None)
    finally:
        guessing.close()


def test_graphs_of_decodes_verify_drafts_and_no_step_waits_more(tmp_path: Path, grammars: GrammarCompiler) -> None:
    """On a pretended GPU, whose host waits are counted."""
    with pretend_cuda(gpus_of("A10G")) as gpus:
        engines = []
        for name in ("solo", "guessing"):
            bounds = limits(page_size=256, capacity_tokens=4096)
            runner = PagedRunner(loaded(tiny_models.build("llama").to("cuda", torch.bfloat16)), bounds)
            runner.prove()
            assert runner.graphs
            (tmp_path / name).mkdir()
            engines.append(LocalEngine(runner, bounds, tmp_path / name, grammars=grammars))
        solo, guessing = engines
        drafter = guessing.core.scheduler.drafter = Oracle(1)
        graphs: Any = guessing.core.runner
        replays = []
        replay = graphs.graphs.replay
        graphs.graphs.replay = lambda shape: (replays.append(shape.num_decodes), replay(shape))[1]
        try:
            assert differences(guessing, drafter, solo, 1) == []
            assert max(replays) > 4
            drafter.answers = {5: waited(solo, gpus)[0]}
            (tokens, before), (same, after) = waited(solo, gpus), waited(guessing, gpus)
            assert same == tokens
            assert after <= before
        finally:
            for each in engines:
                each.close()


def waited(engine: LocalEngine, gpus: Gpus) -> tuple[list[int], float]:
    """An answer, and how often a step of it waited for the GPU."""
    outcome = engine.submit([5, 9, 17], max_tokens=12, temperature=0.8, seed=5, repetition_penalty=1.3)
    engine.step()
    waits, steps = gpus.waits.total(), engine.core.board["steps"]
    while not outcome.done:
        engine.step()
    return outcome.token_ids, (gpus.waits.total() - waits) / (engine.core.board["steps"] - steps)
