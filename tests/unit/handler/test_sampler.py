"""Sampling against exact distributions, and row by row: nothing a neighbour does may change a row."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from handler.sampling.bitmask import Words, words_of
from handler.sampling.distribution import BlockedDistribution, ScannedDistribution
from handler.sampling.edits.penalties import row_edit
from handler.sampling.edits.row_edits import RowEdits
from handler.sampling.randomness import uniform
from handler.sampling.sampler import sample
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams

VOCAB = 700


def params(**values: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 100, "seed": 0} | values))


def sequence(prompt: list[int], output: list[int] | None = None, **values: Any) -> Sequence:
    seq = Sequence(GenerateRequest("r", prompt, params(**values), 1.0), b"", 0.0, 1.0)
    seq.token_ids += output or []
    return seq


def distribution(row: torch.Tensor, p: SamplingParams) -> torch.Tensor:
    """As the log-probabilities say of all tokens that may come."""
    asked = msgspec.structs.replace(p, num_logprobs=len(row), warped_logprobs=True)
    seq = Sequence(GenerateRequest("r", [1], asked, 1.0), b"", 0.0, 1.0)
    found = sample(row[None], [seq], ())[0].logprob
    assert found is not None
    dense = torch.zeros(len(row), dtype=torch.double)
    for token_id, logprob in found.top:
        dense[token_id] = math.exp(logprob)
    return dense


def penalised(row: torch.Tensor, seq: Sequence) -> torch.Tensor:
    edit = row_edit(seq, ())
    assert edit is not None
    return RowEdits([0], [edit], len(row)).apply(row[None], {})[0]


def expected_distribution(row: torch.Tensor, p: SamplingParams) -> torch.Tensor:
    """transformers' own warpers, in its order."""
    warpers = LogitsProcessorList()
    warpers.append(TemperatureLogitsWarper(float(p.temperature)))
    if p.top_k:
        warpers.append(TopKLogitsWarper(p.top_k))
    if p.top_p < 1:
        warpers.append(TopPLogitsWarper(p.top_p))
    if p.min_p:
        warpers.append(MinPLogitsWarper(p.min_p))
    if p.typical_p < 1:
        warpers.append(TypicalLogitsWarper(p.typical_p))
    return warpers(torch.tensor([[0]]), row[None].double())[0].softmax(-1)


KNOBS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"temperature": 1.3, "top_k": 5},
    {"top_k": 300},
    {"top_k": 100_000},
    {"top_p": 0.9},
    {"top_p": 0.3, "temperature": 0.5},
    {"top_p": 0.999999},
    {"min_p": 0.1},
    {"min_p": 1e-9},
    {"typical_p": 0.8},
    {"top_k": 40, "top_p": 0.8, "min_p": 0.02, "temperature": 1.1},
    {"top_k": 600, "typical_p": 0.5},
]


@pytest.mark.parametrize("knobs", KNOBS)
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_warping_equals_transformers(knobs: dict[str, Any], spread: float) -> None:
    row = torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * spread
    p = params(**knobs)
    assert torch.allclose(distribution(row, p), expected_distribution(row, p), atol=1e-6)


def test_truncation_by_hand() -> None:
    row = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    assert distribution(row, params(top_p=0.7)).tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert distribution(row, params(top_k=1)).tolist() == pytest.approx([1, 0, 0, 0])
    assert distribution(row, params(min_p=0.29)).tolist() == pytest.approx([0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0])


@settings(max_examples=60)
@given(st.lists(st.sampled_from(KNOBS), min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 2**32))
def test_a_row_does_not_see_its_neighbours(batch: list[dict[str, Any]], place: int, seed: int) -> None:
    place %= len(batch)
    rows = torch.randn(len(batch), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    seqs = [sequence([1, 2], seed=seed + i, num_logprobs=2, **knobs) for i, knobs in enumerate(batch)]
    together = sample(rows, seqs, ())[place]
    alone = sample(rows[place : place + 1], [seqs[place]], ())[0]
    assert together == alone


def test_draws_follow_the_distribution() -> None:
    row = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    seqs = [sequence([1], seed=seed) for seed in range(20_000)]
    counts = Counter(found.token_id for found in sample(row.expand(len(seqs), -1), seqs, ()))
    for token_id, probability in enumerate([0.5, 0.25, 0.15, 0.1]):
        assert counts[token_id] / 20_000 == pytest.approx(probability, abs=0.015)


@pytest.mark.parametrize("p", [params(), params(top_p=0.97), params(min_p=1e-4), params(top_k=5000)])
def test_a_flat_row_of_a_large_vocabulary(p: SamplingParams) -> None:
    """Its nucleus reaches beyond the first looks at the best tokens, and over many blocks."""
    row = torch.randn(9000, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(distribution(row, p), expected_distribution(row, p), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("draw", [1e-300, 1e-9, 0.25, 0.5, 0.75, 1 - 1e-16])
@pytest.mark.parametrize("blocked", [True, False])
def test_a_token_without_weight_is_never_drawn(draw: float, blocked: bool) -> None:
    rows = torch.full((2, 2000), float("-inf"))
    rows[0, [300, 301, 900, 1500]] = 0.0
    rows[1, 1500] = 0.0
    found = BlockedDistribution(rows, rows.amax(-1), 2, 2) if blocked else ScannedDistribution(rows)
    one, other = found.draw(2, torch.tensor([draw, draw], dtype=torch.float64)).tolist()
    assert one in {300, 301, 900, 1500}
    assert other == 1500


def test_uniform_is_even_and_depends_on_both_arguments() -> None:
    draws = [uniform(seed, index) for seed in range(100) for index in range(100)]
    assert all(0 < u < 1 for u in draws)
    assert len(set(draws)) == len(draws)
    assert sum(draws) / len(draws) == pytest.approx(0.5, abs=0.01)
    assert uniform(2**64 - 1, 10**9) != uniform(0, 10**9)


def test_greedy_takes_the_first_of_the_best() -> None:
    rows = torch.tensor([[0.0, 3.0, 3.0, 1.0], [5.0, 0.0, 0.0, 0.0]])
    seqs = [sequence([1], temperature=0.0), sequence([1], temperature=0.0)]
    assert [s.token_id for s in sample(rows, seqs, ())] == [1, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_fails_alone(bad: float) -> None:
    rows = torch.randn(3, VOCAB)
    seqs = [sequence([1], temperature=t, repetition_penalty=1.2, num_logprobs=1) for t in (0.0, 1.0, 1.0)]
    expected = sample(rows, seqs, ())
    rows[1, 5] = bad
    found = sample(rows, seqs, ())
    assert found[1].token_id is None
    assert (found[0], found[2]) == (expected[0], expected[2])


def test_repetition_penalty_equals_transformers() -> None:
    row = torch.randn(VOCAB)
    seq = sequence([3, 4, 4, 9], [11, 3], repetition_penalty=1.7)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([seq.token_ids]), row[None].clone())[0]
    assert torch.allclose(penalised(row, seq), expected)


def test_openai_penalties_count_the_output_alone() -> None:
    row = torch.zeros(6)
    seq = sequence([1, 1, 1], [2, 2, 3], frequency_penalty=0.5, presence_penalty=0.25)
    assert penalised(row, seq).tolist() == pytest.approx([0, 0, -1.25, -0.75, 0, 0])


def test_tgi_frequency_penalty_is_divided_by_the_length() -> None:
    row = torch.zeros(6)
    seq = sequence([1, 1, 1], [2], frequency_penalty=2.0, length_penalised_frequency=True)
    assert penalised(row, seq).tolist() == pytest.approx([0, -1.5, -0.5, 0, 0, 0])


def test_logit_bias_can_force_and_forbid() -> None:
    rows = torch.zeros(1, 10)
    assert sample(rows, [sequence([1], temperature=0.0, logit_bias={7: 100.0})], ())[0].token_id == 7
    rows[0, 4] = 50.0
    assert sample(rows, [sequence([1], temperature=0.0, logit_bias={4: -100.0})], ())[0].token_id != 4


def test_end_of_sequence_waits_for_min_tokens() -> None:
    rows = torch.zeros(1, 10)
    rows[0, 2] = 9.0
    waiting = sequence([1], [5], temperature=0.0, min_tokens=2)
    assert sample(rows, [waiting], {2})[0].token_id != 2
    waiting.token_ids.append(5)
    assert sample(rows, [waiting], {2})[0].token_id == 2


def test_logprobs_raw_and_warped() -> None:
    row = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    raw = sample(row, [sequence([1], top_k=2, num_logprobs=3, seed=1)], ())[0]
    assert raw.logprob is not None
    assert [v for _, v in raw.logprob.top] == pytest.approx(row[0].log_softmax(-1)[:3].tolist())
    warped = sample(row, [sequence([1], top_k=2, num_logprobs=3, seed=1, warped_logprobs=True)], ())[0]
    assert warped.logprob is not None
    assert [v for _, v in warped.logprob.top] == pytest.approx(row[0, :2].log_softmax(-1).tolist())


class OneToken:
    """A grammar that has a single text left."""

    def __init__(self, token_id: int) -> None:
        self._token_id = token_id

    def mask(self) -> torch.Tensor:
        return torch.arange(VOCAB) == self._token_id

    def bits(self) -> Words:
        return words_of([self._token_id], VOCAB)


@pytest.mark.parametrize("warped", [False, True])
@pytest.mark.parametrize(
    "knobs", [{"temperature": 0.0}, *KNOBS, {"repetition_penalty": 1.5, "logit_bias": {5: -100.0}}]
)
@pytest.mark.parametrize("spread", [1.0, 60.0])
def test_a_mask_of_one_token_leaves_that_and_finite_log_probabilities(
    knobs: dict[str, Any], warped: bool, spread: float
) -> None:
    """Raw ones are the model's own; warped ones, TGI's, are those after the grammar."""
    row = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(4)) * spread
    least = int(row.argmin())
    seq = sequence([least, 2], seed=3, num_logprobs=5, warped_logprobs=warped, **knobs)
    seq.constraint = OneToken(least)  # type: ignore[assignment]
    found = sample(row, [seq], ())[0]
    assert found.token_id == least
    assert found.logprob is not None
    raw = row[0].log_softmax(-1)
    top = [(int(i), float(raw[i])) for i in raw.topk(5).indices]
    assert found.logprob.logprob == pytest.approx(0.0 if warped else float(raw[least]))
    assert list(found.logprob.top) == ([(least, pytest.approx(0.0))] if warped else top)
