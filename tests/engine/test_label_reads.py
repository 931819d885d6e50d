"""What a decision reads of the engine: the softmax of the labels' raw logits, whatever runs beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import torch

from container.api.decisions.label_tree import LabelTree, Path
from container.generation.generation import Token
from tests.support.local_engine import LocalEngine, Outcome

MakeEngine = Callable[..., LocalEngine]
STATE = [(17 * i + 5) % 250 for i in range(70)]
QUESTIONS = [[*STATE, *((29 * i + q) % 250 for i in range(9))] for q in range(6)]
TOKENS: list[Path] = [(40,), (41,), (42,), (7,)]
SEQUENCES: list[Path] = [(40, 41), (40, 42), (41, 40), (7, 9, 11), (7, 9, 12)]


def submit(engine: LocalEngine, prompt: list[int], tree: LabelTree, **options: bool) -> list[Outcome]:
    return [
        engine.submit([*prompt, *read.path], **options, **msgspec.structs.asdict(read.sampling)) for read in tree.reads
    ]


def probabilities(tree: LabelTree, outcomes: list[Outcome]) -> list[float]:
    found = {}
    for read, outcome in zip(tree.reads, outcomes, strict=True):
        assert outcome.error is None
        found[read] = Token(outcome.token_ids[0], "", False, outcome.logprobs[0])
    return tree.probabilities(found)


@torch.no_grad()
def expected(model: Any, prompt: list[int], labels: Sequence[Path]) -> list[float]:
    """By a stock forward over each label: its tokens' log-probabilities, or the same of one token's logits."""
    weights = []
    for label in labels:
        logprobs = model(torch.tensor([[*prompt, *label]])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) - 1 + len(label))
        weights.append(sum(float(logprobs[i, token]) for i, token in zip(places, label, strict=True)))
    return torch.tensor(weights, dtype=torch.float64).softmax(-1).tolist()


def test_probabilities_are_those_of_a_stock_forward_alone_and_among_others(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama, num_stored_pages=32)
    tree, longer = LabelTree(TOKENS), LabelTree(SEQUENCES)
    alone = []
    for question in QUESTIONS:
        outcomes = submit(engine, question, tree, reuse_prefix=False)
        engine.run()
        alone.append(probabilities(tree, outcomes))
    for found, question in zip(alone, QUESTIONS, strict=True):
        assert found == pytest.approx(expected(llama, question, TOKENS), abs=1e-5)
        assert max(found) > 2 * min(found), "equal shares would prove little"

    first = submit(engine, QUESTIONS[0], tree)
    engine.run()
    mate = engine.submit([9, 8, 7], max_tokens=4, temperature=1.5, seed=3, repetition_penalty=1.3, num_logprobs=2)
    others = [submit(engine, question, tree) for question in QUESTIONS[1:]]
    sequences = submit(engine, QUESTIONS[0], longer)
    engine.run()
    assert [probabilities(tree, each) for each in (first, *others)] == alone, "to the last bit"
    assert [each.num_cached_tokens for (each,) in others] == [64] * 5, "the state is computed once"
    found = probabilities(longer, sequences)
    assert found == pytest.approx(expected(llama, QUESTIONS[0], SEQUENCES), abs=1e-5)
    assert max(found) > 2 * min(found), "equal shares would prove little"
    assert len(mate.token_ids) == 4
