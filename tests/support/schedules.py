"""Random schedules of requests for one engine: they arrive, run, are aborted and end in every order.

Whatever a schedule does, each request that was not aborted gets what it gets alone.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handler.runners.limits import Limits
from handler.runners.paged.runner import PagedRunner
from handler.runners.runner import Runner
from handler.runners.slots.runner import SlotRunner
from handler.sampling.grammar import GrammarCompiler
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, Outcome, limits, loaded

_VOCAB = 250
_SHORT = {"capacity_tokens": 128, "max_model_len": 128}
# Every kind of memory, with room and without. Pages of 8: prompts that share 20 or 40 tokens share some.
CROWDS: dict[str, dict[str, int]] = {
    "roomy": {},
    "preempting": _SHORT,
    "reusing": {"num_stored_pages": 24, "page_size": 8},
    "reusing, preempting": {"num_stored_pages": 24, "page_size": 8} | _SHORT,
    "paged": {"page_size": 8},
    "paged, preempting": {"page_size": 8} | _SHORT,
}


@dataclass
class Wish:
    """A request of a schedule: what is asked, at which step, and when its client leaves, if it does."""

    prompt: list[int]
    sampling: dict[str, Any]
    arrives: int
    leaves: int | None
    salt: str
    outcome: Outcome | None = None


def engine(
    directory: Path, kind: str, grammars: GrammarCompiler | None = None, draft: Any = None, **draft_limits: int
) -> LocalEngine:
    """An engine over a tiny model with the memory of `CROWDS[kind]`, and perhaps beside the model `draft`."""
    directory.mkdir()
    bounds = limits(**CROWDS[kind])
    beside = None if draft is None else replace(bounds, **draft_limits)
    return LocalEngine(
        runner(kind, tiny_models.build("llama"), bounds),
        bounds,
        directory,
        grammars=grammars,
        draft=None if beside is None else (runner(kind, draft, beside), beside),
    )


def runner(kind: str, model: Any, bounds: Limits) -> Runner:
    """A runner of `model` with the memory of `CROWDS[kind]`."""
    found: Runner
    if kind.startswith("paged"):
        found = PagedRunner(loaded(model), bounds)
    else:
        stored = (bounds.num_stored_pages, bounds.page_size)
        found = SlotRunner(loaded(model), bounds.max_num_seqs, bounds.max_model_len, *stored)
        found.accelerate()
    found.prove()
    return found


def draw(seed: int, num: int = 6) -> list[Wish]:
    """`num` requests of which some share a beginning, so that prefixes are reused."""
    rng = random.Random(seed)
    common = [rng.randrange(_VOCAB) for _ in range(40)]
    return [_wish(rng, common) for _ in range(num)]


def _wish(rng: random.Random, common: list[int]) -> Wish:
    prompt = common[: rng.choice([0, 20, 40])] + [rng.randrange(_VOCAB) for _ in range(rng.randrange(1, 30))]
    arrives = rng.randrange(12)
    leaves = arrives + rng.randrange(12) if rng.random() < 0.25 else None
    return Wish(prompt, _sampling(rng), arrives, leaves, rng.choice(["", "a", "b"]))


def _sampling(rng: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {"max_tokens": rng.randrange(1, 16), "seed": rng.randrange(2**64)}
    found["temperature"] = rng.choice([0.0, 0.7, 1.5])
    maybe = {
        "top_k": rng.randrange(1, 50),
        "top_p": rng.uniform(0.1, 1.0),
        "min_p": rng.uniform(0.0, 0.3),
        "typical_p": rng.uniform(0.2, 1.0),
        "repetition_penalty": rng.uniform(0.5, 2.0),
        "frequency_penalty": rng.uniform(-2, 2),
        "presence_penalty": rng.uniform(-2, 2),
        "logit_bias": {rng.randrange(_VOCAB): rng.uniform(-100, 100) for _ in range(3)},
        "stop_token_ids": tuple(rng.randrange(_VOCAB) for _ in range(20)),
        "min_tokens": rng.randrange(3),
        "bad_words": tuple(tuple(rng.randrange(_VOCAB) for _ in range(1 + i % 3)) for i in range(30)),
        "num_logprobs": rng.randrange(4),
        "num_prompt_logprobs": rng.randrange(3),
        "warped_logprobs": True,
        "length_penalised_frequency": True,
    }
    return found | {name: value for name, value in maybe.items() if rng.random() < 0.3}


def play(engine: LocalEngine, wishes: list[Wish], max_steps: int = 500) -> None:
    """Submit, step and abort as the schedule says, until everything has ended or was left."""
    for step in range(max_steps):
        for wish in wishes:
            if wish.arrives == step:
                wish.outcome = engine.submit(wish.prompt, cache_salt=wish.salt, **wish.sampling)
            if wish.leaves == step and wish.outcome is not None and not wish.outcome.done:
                engine.abort(wish.outcome)
        engine.step()
        if all(wish.outcome is not None and (wish.outcome.done or wish.leaves is not None) for wish in wishes):
            break
    else:
        raise AssertionError("the schedule did not end")
    engine.core.scheduler.check_integrity()


def alone(engine: LocalEngine, wish: Wish) -> Outcome:
    """What the request gets from `engine` when nobody else is there, with nothing of its prompt stored."""
    outcome = engine.submit(wish.prompt, reuse_prefix=False, **wish.sampling)
    while not outcome.done:
        engine.step()
    return outcome


def differs(wish: Wish, solo: Outcome) -> str | None:
    """What is not as it is alone: tokens and reasons exactly, log-probabilities to rounding of float32 sums."""
    got = wish.outcome
    if got is None or (wish.leaves is not None and not got.done):
        return None
    if got.error is not None or solo.error is not None:
        return f"error {got.error or solo.error}"
    if (got.token_ids, got.finish_reason) != (solo.token_ids, solo.finish_reason):
        return f"{got.token_ids} {got.finish_reason}, alone {solo.token_ids} {solo.finish_reason}"
    pairs = [*zip(got.logprobs, solo.logprobs, strict=True)]
    pairs += [*zip(got.prompt_logprobs, solo.prompt_logprobs, strict=True)]
    far = [(a.logprob, b.logprob) for a, b in pairs if not math.isclose(a.logprob, b.logprob, abs_tol=2e-3)]
    return f"log-probabilities {far[0]}" if far else None
