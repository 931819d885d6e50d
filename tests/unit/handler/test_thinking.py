"""The budget of a thought: its end is forced after exactly so many tokens, whatever else the request asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from handler.sampling.sampler import sample
from handler.sampling.thinking import forced_token
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams, ThinkingLimit

OPEN, CLOSE, BREAK, WORD, SPACE, EOS = 1, 2, 3, 4, 5, 6
ENDING = (BREAK, CLOSE, BREAK)


def sequence(limit: ThinkingLimit, **sampling: Any) -> Sequence:
    params = SamplingParams(**({"max_tokens": 99, "seed": 0, "temperature": 0.0, "thinking": limit} | sampling))
    return Sequence(GenerateRequest("r", [7, 7, 7], params, 1.0), b"", 0.0, 1.0)


def written(limit: ThinkingLimit, wanted: list[int]) -> list[int]:
    """What comes of a model that would write `wanted`; a forced token takes the place of one of its own."""
    seq = sequence(limit)
    for token_id in wanted:
        forced = forced_token(seq)
        seq.token_ids.append(token_id if forced is None else forced)
    return seq.token_ids[3:]


@pytest.mark.parametrize(
    ("budget", "opened_by", "wanted", "found"),
    [
        (0, (), [WORD] * 5, [*ENDING, WORD, WORD]),
        (2, (), [WORD] * 7, [WORD, WORD, *ENDING, WORD, WORD]),
        (2, (), [WORD, CLOSE, WORD, WORD, WORD], [WORD, CLOSE, WORD, WORD, WORD]),
        (2, (), [CLOSE, WORD, WORD, WORD, WORD], [CLOSE, WORD, WORD, WORD, WORD]),
        (2, (), [WORD, WORD, CLOSE, WORD, WORD, WORD], [WORD, WORD, *ENDING, WORD]),
        (0, (OPEN,), [OPEN, WORD, WORD, WORD, WORD], [OPEN, *ENDING, WORD]),
        (1, (OPEN,), [OPEN, WORD, WORD, WORD, WORD, WORD], [OPEN, WORD, *ENDING, WORD]),
        (1, (OPEN,), [SPACE, OPEN, WORD, WORD, WORD, WORD], [SPACE, OPEN, WORD, *ENDING]),
        (0, (OPEN,), [WORD] * 6, [WORD] * 6),
        (0, (OPEN,), [WORD] * 20 + [OPEN, WORD], [WORD] * 20 + [OPEN, WORD]),
        (99, (), [WORD] * 6, [WORD] * 6),
    ],
)  # fmt: skip
def test_the_end_is_forced_after_the_budget(
    budget: int, opened_by: tuple[int, ...], wanted: list[int], found: list[int]
) -> None:
    assert written(ThinkingLimit(budget, opened_by, (CLOSE,), ENDING), wanted) == found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 2.0, "top_p": 0.1, "top_k": 3},
        {"bad_words": ((BREAK,), (CLOSE,))},
        {"allowed_token_ids": (WORD,)},
        {"logit_bias": {CLOSE: -100.0, WORD: 100.0}},
        {"min_tokens": 9, "stop_token_ids": (CLOSE,)},
        {"repetition_penalty": 9.0, "num_logprobs": 2},
    ],
)
def test_nothing_else_chooses_while_a_thought_ends(options: dict[str, Any]) -> None:
    seq = sequence(ThinkingLimit(1, (), (CLOSE,), ENDING), **options)
    logits = torch.zeros(1, 9)
    logits[0, WORD] = 20.0
    for _ in range(5):
        (found,) = sample(logits, [seq], {EOS})
        assert found.token_id is not None, found.message
        seq.token_ids.append(found.token_id)
    assert seq.token_ids[3:] == [WORD, *ENDING, WORD]
