"""What is guessed, how likely it is, and when a draft pays."""

from __future__ import annotations

import random

import pytest

from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams
from handler.speculation.acceptance import Acceptance
from handler.speculation.drafter import NgramDrafter
from handler.speculation.ngram import MAX_LENGTH, NgramLookup
from handler.speculation.step_times import StepTimes

PROSE = random.Random(1).sample(range(1000), 60)


def looked_up(prompt: list[int], output: list[int]) -> NgramLookup:
    """A prompt taken in at once, then an output token by token."""
    found, text = NgramLookup(), [*prompt, *output]
    found.skip(prompt)
    while found.num_seen < len(text):
        found.push(text)
    return found


@pytest.mark.parametrize(
    ("prompt", "output", "draft", "length"),
    [
        ([1, 2, 3, 4, 5], [], [], 0),
        ([1, 2, 3, 9, 1, 2], [], [3, 9, 1, 2, 3], 2),
        ([1, 2, 3, 4, 8, 2, 3, 4, 9], [2, 3, 4], [9, 2, 3, 4, 9], 3),  # the latest place of the longest
        ([7, 5, 6, 7, 1], [5, 6, 7], [1, 5, 6, 7, 1], 3),
        ([5, 5], [5], [5, 5, 5, 5, 5], 2),  # a place at the end repeats itself
        (PROSE, [0, *PROSE[:40]], PROSE[40:45], MAX_LENGTH),
        (PROSE, [*PROSE[:20], -1], PROSE[21:26], 0),  # one token was replaced by another
    ],
)
def test_what_followed_at_the_place_that_ends_alike(
    prompt: list[int], output: list[int], draft: list[int], length: int
) -> None:
    found, text = looked_up(prompt, output), [*prompt, *output]
    assert found.draft(text, 5) == draft
    assert found.length == length
    assert found.guess(text) == (draft[0] if draft else None)


def test_a_prompt_at_once_is_a_prompt_token_by_token() -> None:
    draw = random.Random(0)
    for size in range(1, 40):
        text = [draw.randrange(4) for _ in range(size)]
        later = [*text, *(draw.randrange(4) for _ in range(10))]
        at_once, by_token = looked_up(text, []), looked_up(text[:1], text[1:])
        # Where the text led before decides only at which of several places it is followed.
        assert at_once._ends == by_token._ends
        assert len(at_once.draft(text, 3)) in {0, 3}
        while at_once.num_seen < len(later):
            at_once.push(later)
        assert at_once._ends == looked_up(later[:1], later[1:])._ends


def test_of_a_long_prompt_only_the_end_is_indexed() -> None:
    text = [*range(20_000), 19_000, 19_001]
    found = looked_up(text, [])
    assert found.draft(text, 2) == [19_002, 19_003]
    assert all(len(ends) <= 16_384 for ends in found._ends.values())
    text = [*range(20_000), 10, 11]
    assert looked_up(text, []).draft(text, 2) == []


def test_times_are_interpolated_and_a_slow_step_says_nothing() -> None:
    times = StepTimes()
    assert times.estimate(3) == 0.0
    for seconds in (1.0, 9.0, 1.0, 1.0):
        times.observe(1, seconds)
    assert times.estimate(1) == 1.0
    assert times.estimate(9) == 3.0, "what was never tried costs a little more"
    times.observe(9, 5.0)
    assert times.estimate(5) == 3.0
    times.observe(5, 7.0)
    assert times.estimate(5) == 5.0, "a smaller step takes no longer"


def test_times_that_are_old_are_forgotten() -> None:
    times = StepTimes()
    times.observe(9, 50.0)
    for _ in range(1000):
        times.observe(1, 1.0)
    assert times.estimate(9) == 3.0


def test_shares_follow_what_came_true() -> None:
    engine = Acceptance()
    good, bad = Acceptance(engine), Acceptance(engine)
    before = good.shares(8, 3)
    assert before == sorted(before, reverse=True)
    for _ in range(60):
        good.observe(8, True)
        bad.observe(8, False)
    assert good.shares(8, 1)[0] > 0.9 > 0.1 > bad.shares(8, 1)[0]
    assert Acceptance(engine).shares(2, 2) == Acceptance().shares(2, 2), "another fit is another question"


def sequence(name: str, text: list[int]) -> Sequence:
    return Sequence(GenerateRequest(name, text, SamplingParams(max_tokens=99, seed=0), 1.0), b"", 0.0, 1.0)


def steady(drafter: NgramDrafter, base_s: float, row_s: float) -> None:
    """Steps that take `base_s` and `row_s` for each row, all of them known."""
    for num_rows in range(1, 80):
        drafter.observe(num_rows, base_s + row_s * num_rows)


@pytest.mark.parametrize(("base_s", "row_s", "drafts"), [(1.0, 0.0, True), (1.0, 0.05, True), (0.0, 1.0, False)])
def test_a_draft_is_as_long_as_it_pays(base_s: float, row_s: float, drafts: bool) -> None:
    drafter, seq = NgramDrafter(8), sequence("r", PROSE[:30] * 2)
    assert drafter.propose([seq], [8], 100) == [()], "nothing is known of a step's time"
    steady(drafter, base_s, row_s)
    (draft,) = drafter.propose([seq], [8], 100)
    assert bool(draft) == drafts
    assert draft == tuple(PROSE[: len(draft)])
    assert len(drafter.propose([seq], [3], 100)[0]) <= 3
    assert len(drafter.propose([seq], [8], 2)[0]) <= 2


def test_guesses_that_fail_are_no_longer_drafted_and_cost_nothing() -> None:
    """The text ends like an earlier place each time and then goes on otherwise. Nothing need be tried to see it."""
    drafter, seq = NgramDrafter(8), sequence("r", [1, 2, 3])
    steady(drafter, 1.0, 0.2)
    for i in range(60):
        seq.token_ids += [1, 2, 100 + i]
        drafter.propose([seq], [0], 100)
    seq.token_ids += [1, 2]
    assert drafter.propose([seq], [8], 100) == [()]


def test_the_likeliest_draft_comes_first() -> None:
    drafter = NgramDrafter(8)
    steady(drafter, 1.0, 0.0)
    sure, unsure = sequence("a", PROSE[:30] * 2), sequence("b", [5, 6, 7, 8, 6])
    first, second = drafter.propose([sure, unsure], [8, 8], 8)
    assert len(first) == 8
    assert second == ()


@pytest.mark.parametrize(("num_seqs", "most"), [(1, 3), (3, 1), (4, 0), (5, 0)])
def test_a_step_with_drafts_has_no_more_rows_than_may_be(num_seqs: int, most: int) -> None:
    drafter = NgramDrafter(8, max_rows=4)
    steady(drafter, 1.0, 0.0)
    seqs = [sequence(str(i), PROSE[:30] * 2) for i in range(num_seqs)]
    assert sum(map(len, drafter.propose(seqs, [8] * num_seqs, 100))) == most
