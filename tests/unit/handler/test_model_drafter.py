"""When a draft model guesses: where it pays, by what its passes and the engine's steps take."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams
from handler.speculation.draft_lengths import Lengths
from handler.speculation.draft_plan import Candidate, Costs, Plan, best_plan
from handler.speculation.model_drafter import Guess, ModelDrafter, Pass


def costs(step_s: float = 1.0, row_s: float = 0.0, pass_s: float = 0.1, read_s: float = 0.01) -> Costs:
    return Costs(lambda rows: step_s + row_s * rows, lambda _rows: pass_s, read_s)


def candidate(index: int, share: float, unread: int = 1, left: int = 100, most: int = 8) -> Candidate:
    return Candidate(index, share, most, unread, left, 50)


def plan(candidates: list[Candidate], costs: Costs, budget: int = 100) -> Plan:
    return best_plan(candidates, Lengths([0, 0], [0.0, 0.0]), budget, costs)


@pytest.mark.parametrize(
    ("candidates", "found", "chosen", "depth"),
    [
        ([candidate(0, 0.9), candidate(1, 0.9)], costs(), [0, 1], 8),
        ([candidate(0, 0.9), candidate(1, 0.02)], costs(row_s=0.1, pass_s=0.2), [0], 3),
        ([candidate(0, 0.1), candidate(1, 0.1)], costs(), [], 0),
        ([candidate(0, 0.9), candidate(1, 0.9)], costs(pass_s=1.0), [], 0),
        ([candidate(0, 0.9), candidate(1, 0.9)], costs(step_s=0.0, row_s=1.0), [], 0),
        ([candidate(0, 0.9, unread=900, left=3)], costs(), [], 0),
        ([candidate(0, 0.9, unread=900, left=2000)], costs(), [0], 8),
    ],
    ids=["all", "the likely one", "unlikely", "a slow model", "rows cost", "long to read", "worth reading"],
)
def test_a_plan_is_what_promises_the_most(
    candidates: list[Candidate], found: Costs, chosen: list[int], depth: int
) -> None:
    best = plan(candidates, found)
    assert [one.index for one in best.chosen] == chosen
    assert best.depth == pytest.approx(depth, abs=2 * bool(depth))
    assert bool(best.depth) == bool(depth)


def test_a_plan_stays_within_its_bounds() -> None:
    both = [candidate(0, 0.9), candidate(1, 0.9)]
    assert plan(both, costs(), budget=6).depth <= 3 or len(plan(both, costs(), budget=6).chosen) == 1
    assert plan(both, costs(), budget=0).depth == 0
    assert plan([candidate(0, 0.99, most=2)], costs()).depth == 2


class Simulated:
    """A draft model that is right with a chance, and an engine whose answers are random."""

    def __init__(self, right: float, step_s: float, row_s: float, pass_s: float, num_seqs: int = 1) -> None:
        self.right, self._pass_s, self._step_s, self._row_s = right, pass_s, step_s, row_s
        self._random = random.Random(4)
        self.drafter = ModelDrafter(8, self)
        self.texts = {sequence(str(i)): [self._random.randrange(10**6) for _ in range(99_999)] for i in range(num_seqs)}
        self._read: dict[Sequence, int] = {}
        self.model_s = self.total_s = 0.0
        self.num_tokens = 0

    def num_unread(self, seq: Sequence) -> int | None:
        return max(1, len(seq.token_ids) - self._read.get(seq, 0))

    def guess(self, seqs: list[Sequence], drafts: list[list[int]]) -> Pass:
        guesses: list[Guess | None] = []
        for seq, draft in zip(seqs, drafts, strict=True):
            self._read[seq] = len(seq.token_ids)
            is_right = self._random.random() < self.right
            token_id = self.texts[seq][len(seq.token_ids) + len(draft)] if is_right else -1
            guesses.append(Guess(token_id, 0.7))
        self.model_s += self._pass_s
        return Pass(guesses, len(seqs), 0, self._pass_s)

    def forget(self, seq: Sequence) -> None:
        self._read.pop(seq, None)

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        assert self._read.keys() <= {*running}

    def run(self, num_steps: int) -> float:
        """Tokens a second."""
        self.model_s = self.total_s = 0.0
        self.num_tokens = 0
        for _ in range(num_steps):
            self._step()
        return self.num_tokens / self.total_s

    def _step(self) -> None:
        before_s, seqs = self.model_s, list(self.texts)
        drafts = self.drafter.propose(seqs, [100] * len(seqs), 1000)
        rows = len(seqs) + sum(map(len, drafts))
        seconds = self._step_s + self._row_s * rows + self.model_s - before_s
        for seq, draft in zip(seqs, drafts, strict=True):
            for guess in (*draft, None):
                seq.token_ids.append(self.texts[seq][len(seq.token_ids)])
                self.num_tokens += 1
                if guess != seq.token_ids[-1]:
                    break
        self.total_s += seconds
        self.drafter.observe(rows, seconds)


def sequence(name: str) -> Sequence:
    sampling = SamplingParams(max_tokens=10**6, seed=0)
    return Sequence(GenerateRequest(name, [1], sampling, 1.0), b"", 0.0, 1.0)


@pytest.mark.parametrize("num_seqs", [1, 8])
def test_a_model_that_guesses_right_makes_steps_worth_more(num_seqs: int) -> None:
    found = Simulated(1.0, step_s=1.0, row_s=0.01, pass_s=0.1, num_seqs=num_seqs)
    assert found.run(100) > 3.5 * num_seqs


def test_rows_that_cost_make_drafts_short() -> None:
    found = Simulated(0.8, step_s=1.0, row_s=0.2, pass_s=0.05)
    without = 1 / 1.2
    assert found.run(300) > 1.5 * without


@pytest.mark.parametrize("right", [0.0, 0.1])
@pytest.mark.parametrize("num_seqs", [1, 8])
def test_a_model_that_guesses_wrong_is_soon_left_alone(right: float, num_seqs: int) -> None:
    found = Simulated(right, step_s=1.0, row_s=0.02, pass_s=0.2, num_seqs=num_seqs)
    found.run(30)
    without = num_seqs / (1 + 0.02 * num_seqs)
    assert found.run(1000) > 0.98 * without
    assert found.model_s < 0.012 * found.total_s


def test_a_model_that_guesses_better_later_is_found_out() -> None:
    found = Simulated(0.0, step_s=1.0, row_s=0.0, pass_s=0.1)
    found.run(200)
    found.right = 1.0
    found.run(400)
    assert found.run(100) > 3.0


def test_a_slow_first_pass_is_not_held_against_the_model() -> None:
    """Kernels are compiled in it. After that nothing would be known of the next ones, were it not tried again."""
    found = Simulated(1.0, step_s=1.0, row_s=0.0, pass_s=500.0)
    found.run(3)
    found._pass_s = 0.1
    found.run(400)
    assert found.run(100) > 3.0


def test_what_the_text_tells_costs_nothing() -> None:
    """Where an answer repeats itself, n-grams guess it and the model rests."""
    found = Simulated(0.5, step_s=1.0, row_s=0.0, pass_s=0.3)
    (seq,) = found.texts
    found.texts[seq] = found.texts[seq][:40] * 200
    found.run(60)
    found.run(50)
    assert found.model_s < 0.02 * found.total_s


def test_nothing_is_kept_of_a_sequence_that_is_forgotten() -> None:
    found = Simulated(1.0, step_s=1.0, row_s=0.0, pass_s=0.1, num_seqs=2)
    found.run(20)
    gone, kept = found.texts
    found.drafter.forget(gone)
    found.drafter.check_integrity([kept])
    assert list(found.drafter._records) == [kept]
