"""Token sequences that must not be generated: the choice changes for the request that bans them and for no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from handler.sampling.edits.penalties import row_edit
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import ErrorCode, GenerateRequest, SamplingParams
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, Outcome

MakeEngine = Callable[..., LocalEngine]
PROMPT = [5, 9, 17, 33, 41, 50, 7]
MATES = [[(i * 7 + j) % 250 for j in range(3 + 5 * i)] for i in range(4)]


def ran(engine: LocalEngine, *requests: tuple[list[int], dict[str, Any]]) -> list[Outcome]:
    """What the requests get when they come together."""
    found = [engine.submit(prompt, max_tokens=12, **sampling) for prompt, sampling in requests]
    engine.run()
    assert all(outcome.error is None for outcome in found)
    return found


def follows(token_ids: list[int], sequence: tuple[int, ...]) -> bool:
    size = len(sequence)
    return any(tuple(token_ids[i : i + size]) == sequence for i in range(len(token_ids)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_word_is_not_generated_alone_or_in_a_batch(
    make_engine: MakeEngine, llama: Any, size: int, temperature: float
) -> None:
    """The most likely tokens up to its last one are the free answer's. A draw may change where a ban takes a share."""
    engine = make_engine(llama)
    sampled = {"temperature": temperature, "seed": 3}
    (free,) = ran(engine, (PROMPT, sampled))
    place = next(
        i for i in range(3, 12) if not follows(free.token_ids[:i], tuple(free.token_ids[i - size + 1 : i + 1]))
    )
    word = tuple(free.token_ids[place - size + 1 : place + 1])
    banning = sampled | {"bad_words": (word,)}
    (alone,) = ran(engine, (PROMPT, banning))
    if not temperature:
        assert alone.token_ids[:place] == free.token_ids[:place]
        assert alone.token_ids[place] != free.token_ids[place]
    assert alone.token_ids != free.token_ids
    assert not follows(alone.token_ids, word)
    *_, crowded = ran(engine, *((mate, {}) for mate in MATES), (PROMPT, banning))
    assert crowded.token_ids == alone.token_ids


def test_a_longer_word_bans_none_of_its_tokens_alone(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama)
    (free,) = ran(engine, (PROMPT, {}))
    absent = next(i for i in range(tiny_models.VOCAB_SIZE) if i not in free.token_ids)
    words = ((absent, free.token_ids[4]), (*free.token_ids[:12], absent), (free.token_ids[4], absent))
    (same,) = ran(engine, (PROMPT, {"bad_words": words}))
    assert same.token_ids == free.token_ids


def test_the_prompt_is_no_part_of_a_word(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama)
    (free,) = ran(engine, (PROMPT, {}))
    (same,) = ran(engine, (PROMPT, {"bad_words": ((PROMPT[-1], free.token_ids[0]),)}))
    assert same.token_ids == free.token_ids


def test_a_ban_is_nobody_elses(make_engine: MakeEngine, llama: Any) -> None:
    """Tokens and log-probabilities of the others, to the bit."""
    engine = make_engine(llama)
    wanted = {"num_logprobs": 2}
    before = ran(engine, *((mate, wanted) for mate in MATES), (PROMPT, {}))
    tokens = sorted({token_id for outcome in before for token_id in outcome.token_ids})
    words = tuple((token_id,) for token_id in tokens)
    *after, banning = ran(engine, *((mate, wanted) for mate in MATES), (PROMPT, {"bad_words": words}))
    assert not set(banning.token_ids) & set(tokens)
    for mate, found in zip(before, after, strict=False):
        assert (found.token_ids, found.logprobs) == (mate.token_ids, mate.logprobs)


@pytest.mark.parametrize("word", [(), (-1,), (tiny_models.VOCAB_SIZE,), (3, 2**40), (2**40, 3)])
def test_impossible_words_are_rejected_and_harm_nobody(
    make_engine: MakeEngine, llama: Any, word: tuple[int, ...]
) -> None:
    engine = make_engine(llama)
    bad = engine.submit(PROMPT, bad_words=((3,), word))
    good = engine.submit(PROMPT)
    engine.run()
    assert bad.error is not None
    assert bad.error.code is ErrorCode.INVALID
    assert "bad_words" in bad.error.message
    assert len(good.token_ids) == 8


def test_a_row_is_touched_only_where_a_ban_applies() -> None:
    """Greedy choice takes the row as it is elsewhere."""
    sampling = SamplingParams(max_tokens=9, seed=0, temperature=0.0, bad_words=((4, 5, 6),))
    seq = Sequence(GenerateRequest("r", [4, 5], sampling, 1.0), b"", 0.0, 1.0)
    touched = []
    for token_id in (5, 4, 5, 7, 4):
        touched.append(row_edit(seq, ()) is not None)
        seq.token_ids.append(token_id)
    assert touched == [False, False, False, True, False]
