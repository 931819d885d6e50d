"""Row 21: five hundred random schedules of arrivals, aborts and every sampling parameter, over every kind of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from handler.sampling.grammar import GrammarCompiler
from tests.faults.conftest import Scoreboard
from tests.support import tiny_models
from tests.support.guesses import Oracle, differences
from tests.support.schedules import CROWDS, alone, differs, draw, engine, play

NUM_SCHEDULES = 500


@pytest.mark.timeout(3600)
@pytest.mark.row(
    21, bug="handler/sampling/sampler.py: the distributions of drawn rows in reverse order: 181 of 360 requests differ"
)
def test_schedules(scoreboard: Scoreboard, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    solo = engine(tmp_path / "solo", "roomy")
    crowds = [engine(tmp_path / str(i), kind) for i, kind in enumerate(CROWDS)]
    wrong, num, left = [], 0, 0
    for seed in range(NUM_SCHEDULES):
        wishes = draw(seed)
        play(crowds[seed % len(crowds)], wishes)
        for i, wish in enumerate(wishes):
            num += 1
            left += wish.leaves is not None
            difference = differs(wish, alone(solo, wish))
            if difference is not None:
                wrong.append(f"schedule {seed}, request {i}: {difference[:80]}")
    preempted = sum(each.core.scheduler.num_preemptions for each in crowds)
    reused = sum(each.core.scheduler.kv.prefix_hit_tokens for each in crowds)
    for each in (solo, *crowds):
        each.close()
    text = f"{len(wrong)} of {num} requests differ ({left} left early, {preempted} preemptions, {reused} tokens reused)"
    ok = not wrong and preempted > 0 and reused > 0
    scoreboard(21, f"{NUM_SCHEDULES} schedules", "", "; ".join([text, *wrong[:3]]), ok)


@pytest.mark.timeout(3600)
@pytest.mark.row(
    21,
    bug="handler/scheduling/sequence.py: a draft's rows share the counts of penalties: 32 requests differ",
)
def test_guessed_schedules(scoreboard: Scoreboard, tmp_path: Path) -> None:
    """The same while the engine verifies drafts that are mostly right, with grammars and limits of thought too."""
    torch.set_num_threads(1)
    tiny_models.write_tokenizer(tmp_path)
    grammars = GrammarCompiler(tmp_path / "tokenizer.json", tiny_models.VOCAB_SIZE, {tiny_models.EOS_ID})
    solos = {
        "slots": engine(tmp_path / "slots", "roomy", grammars),
        "paged": engine(tmp_path / "paged", "paged", grammars),
    }
    crowds = [engine(tmp_path / str(i), kind, grammars) for i, kind in enumerate(CROWDS)]
    drafters = [Oracle(i) for i in range(len(crowds))]
    for crowd, drafter in zip(crowds, drafters, strict=True):
        crowd.core.scheduler.drafter = drafter
    wrong = []
    for seed in range(NUM_SCHEDULES):
        crowd, drafter = crowds[seed % len(crowds)], drafters[seed % len(crowds)]
        wrong += differences(crowd, drafter, solos[crowd.core.runner.name], seed)
    tokens = sum(crowd.core.board["generated_tokens"] for crowd in crowds)
    steps = sum(crowd.core.board["steps"] for crowd in crowds)
    drafted = sum(drafter.num_proposed for drafter in drafters)
    for each in (*solos.values(), *crowds):
        each.close()
    text = f"{len(wrong)} requests differ ({tokens} tokens in {steps} steps, {drafted} tokens drafted)"
    shown = "; ".join([text, *(each[:80] for each in wrong[:3])])
    scoreboard(
        21, f"{NUM_SCHEDULES} schedules, guessed", "", shown, not wrong and tokens > steps and drafted > tokens / 2
    )
