"""The only tokens that may be generated: under every other option, alone and in a batch, and with a grammar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from handler.runners.slots.runner import SlotRunner
from handler.sampling.grammar import GrammarCompiler
from handler.seam.protocol import ErrorCode, FinishReason, Grammar, GrammarKind
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded

MakeEngine = Callable[..., LocalEngine]
PROMPT = [5, 9, 17, 33, 41, 50, 7]
MATE = [(7 + j) % 250 for j in range(8)]
ALLOWED = (3, 7, 11, 200, 200)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 5.0, "seed": 3, "top_k": 40},
    {"temperature": 1.0, "seed": 4, "top_p": 0.2},
    {"temperature": 1.0, "seed": 5, "typical_p": 0.5, "min_p": 0.1},
    {"repetition_penalty": 1.5, "presence_penalty": 2.0, "logit_bias": {9: 100.0}},
    {"temperature": 1.0, "warped_logprobs": True},
    {"bad_words": ((3,), (7,))},
]


def test_nothing_else_is_generated_alone_or_in_a_batch(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama)
    wanted = [{"max_tokens": 6, "allowed_token_ids": ALLOWED, "num_logprobs": 2, **each} for each in OPTIONS]
    alone = []
    for each in wanted:
        alone.append(engine.submit(PROMPT, **each))
        engine.run()
    mate = engine.submit(MATE, max_tokens=6)
    crowded = [engine.submit(PROMPT, **each) for each in wanted]
    engine.run()
    assert [each.token_ids for each in crowded] == [each.token_ids for each in alone]
    for each, found in zip(OPTIONS, alone, strict=True):
        banned = {token for (token,) in each.get("bad_words", ())}
        assert set(found.token_ids) <= set(ALLOWED) - banned, each
        assert (len(found.token_ids), len(found.logprobs)) == (6, 6)
    assert not set(mate.token_ids) <= set(ALLOWED)


def test_log_probabilities_stay_the_models_own(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama)
    free = engine.submit(PROMPT, max_tokens=1, num_logprobs=3)
    bound = engine.submit(PROMPT, max_tokens=1, num_logprobs=3, allowed_token_ids=ALLOWED)
    engine.run()
    assert bound.logprobs[0].top == free.logprobs[0].top
    assert bound.token_ids[0] in ALLOWED


def test_the_end_of_the_answer_must_be_allowed_too(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama, frozenset({tiny_models.EOS_ID}))
    ended = engine.submit(PROMPT, allowed_token_ids=(tiny_models.EOS_ID,))
    endless = engine.submit(PROMPT, allowed_token_ids=(3,))
    engine.run()
    assert (ended.token_ids, ended.finish_reason) == ([tiny_models.EOS_ID], FinishReason.EOS)
    assert (endless.token_ids, endless.finish_reason) == ([3] * 8, FinishReason.LENGTH)


def test_what_leaves_nothing_fails_alone_and_says_why(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama)
    options: list[dict[str, Any]] = [
        {"bad_words": ((3,),)},
        {"min_tokens": 2, "stop_token_ids": (3,)},
        {"allowed_token_ids": (-1,)},
        {"allowed_token_ids": (3, tiny_models.VOCAB_SIZE)},
        {"allowed_token_ids": (2**40,)},
    ]
    bad = [engine.submit(PROMPT, **{"allowed_token_ids": (3,)} | each) for each in options]
    good = engine.submit(PROMPT)
    engine.run()
    for each in bad:
        assert each.error is not None
        assert each.error.code is ErrorCode.INVALID
        assert "allowed_token_ids" in each.error.message
    assert len(good.token_ids) == 8


def test_a_grammar_chooses_among_them(tmp_path: Path, tiny_llama: Path) -> None:
    runner = SlotRunner(loaded(tiny_models.build("llama"), frozenset({tiny_models.EOS_ID})), 8, 256)
    grammars = GrammarCompiler(tiny_llama / "tokenizer.json", tiny_models.VOCAB_SIZE, {tiny_models.EOS_ID})
    engine = LocalEngine(runner, limits(), tmp_path, grammars=grammars)
    digits = Grammar(GrammarKind.REGEX, "[0-9]{6}")
    free = engine.submit(PROMPT, grammar=digits, temperature=1.0, max_tokens=20)
    engine.run()
    pair = tuple(sorted(set(free.token_ids))[:2])
    bound = engine.submit(PROMPT, grammar=digits, temperature=1.0, max_tokens=20, allowed_token_ids=(*pair, 250))
    none = engine.submit(PROMPT, grammar=digits, allowed_token_ids=(tiny_models.EOS_ID,))
    engine.run()
    assert len(bound.token_ids) == 6
    assert set(bound.token_ids) <= set(pair)
    assert none.error is not None
    assert none.error.code is ErrorCode.INVALID
    engine.close()


def test_a_prompts_tokens_have_ranks(make_engine: MakeEngine, llama: Any) -> None:
    """The place among all tokens, by the model's own logits; in chunks as in one piece."""
    logits = llama(torch.tensor([PROMPT])).logits[0, :-1]
    own = logits[torch.arange(len(PROMPT) - 1), torch.tensor(PROMPT[1:])]
    ranks = (logits >= own[:, None]).sum(-1).tolist()
    for size in (64, 4):
        engine = make_engine(llama, max_num_batched_tokens=size)
        found = engine.submit(PROMPT, num_prompt_logprobs=2)
        engine.run()
        assert [each.rank for each in found.prompt_logprobs] == ranks
        assert {each.rank for each in found.logprobs} <= {0}
