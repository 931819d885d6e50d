"""The sampler takes a batch at once: bit by bit what it said when it went row by row, on CPU."""

from __future__ import annotations

from random import Random

import pytest
import torch

from handler.sampling.sampler import sample
from tests.support import row_by_row
from tests.support.random_requests import grow, random_logits, random_sequence

EOS = {2, 3}


@pytest.mark.parametrize("first", range(0, 160, 20))
def test_a_batch_gets_what_each_row_got_alone(first: int) -> None:
    """Tokens, log-probabilities and failures, over mixes of everything and some steps of each."""
    for seed in range(first, first + 20):
        random = Random(seed)
        vocab, num_rows = random.choice([60, 250, 700, 700, 5000]), random.choice([1, 2, 5, 9])
        seqs = [random_sequence(random, vocab, 100 * seed + i) for i in range(num_rows)]
        logits = random_logits(random, num_rows, vocab)
        for _ in range(2):
            expected = [row_by_row.sample(logits[i : i + 1], [seq], EOS)[0] for i, seq in enumerate(seqs)]
            assert sample(logits, seqs, EOS) == expected, seed
            grow(random, seqs)


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_order_and_neighbours_change_nothing(first: int) -> None:
    for seed in range(first, first + 20):
        random = Random(-1 - seed)
        vocab = random.choice([300, 9000])
        seqs = [random_sequence(random, vocab, 100 * seed + i) for i in range(6)]
        logits = random_logits(random, 6, vocab)
        expected = sample(logits, seqs, EOS)
        order = random.sample(range(6), 4)
        assert sample(logits[torch.tensor(order)], [seqs[i] for i in order], EOS) == [expected[i] for i in order], seed
