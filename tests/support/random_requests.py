"""Sequences that ask the sampler for anything, and logits for them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

from handler.sampling.bitmask import Words, flags_of, words_of
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams, ThinkingLimit

# Prompts and answers are of so few tokens that penalties and bad words find what they look for.
_FEW = 50
# Field -> how often it is set, and to what.
_FIELDS: dict[str, tuple[float, Callable[[Random, int], Any]]] = {
    "temperature": (0.9, lambda r, _: r.choice([0.0, 0.3, 0.7, 1.0, 1.5])),
    "top_k": (0.3, lambda r, _: r.choice([1, 5, 40, 300, 600, 1500, 5000])),
    "top_p": (0.5, lambda r, _: r.choice([0.1, 0.5, 0.9, 0.99, 0.9999])),
    "min_p": (0.3, lambda r, _: r.choice([1e-6, 0.02, 0.3, 1.0])),
    "typical_p": (0.1, lambda r, _: r.choice([0.2, 0.8, 0.95])),
    "repetition_penalty": (0.3, lambda r, _: r.choice([0.8, 1.2, 1.7])),
    "frequency_penalty": (0.3, lambda r, _: r.choice([0.5, -0.4, 1.1])),
    "presence_penalty": (0.3, lambda r, _: r.choice([0.5, -0.4, 1.1])),
    "length_penalised_frequency": (0.15, lambda _, __: True),
    "logit_bias": (0.2, lambda r, vocab: {r.randrange(vocab): r.choice([-100.0, 5.0, 30.0]) for _ in range(5)}),
    "min_tokens": (0.2, lambda r, _: r.choice([2, 30])),
    "stop_token_ids": (0.2, lambda r, vocab: (r.randrange(vocab),)),
    "bad_words": (0.2, lambda r, _: tuple(_tokens(r, 1, 3) for _ in range(3))),
    "allowed_token_ids": (0.15, lambda r, vocab: tuple(r.sample(range(vocab), r.choice([1, 20])))),
    "num_logprobs": (0.3, lambda r, _: r.choice([0, 2, 5, 20])),
    "warped_logprobs": (0.4, lambda _, __: True),
    "watermark": (0.05, lambda _, __: (0.5, 2.0)),
    "thinking": (0.05, lambda _, __: ThinkingLimit(opened_by=(), closed_by=(), ending=(7, 8, 9), num_tokens=3)),
}


def _tokens(random: Random, least: int, end: int) -> tuple[int, ...]:
    return tuple(random.randrange(_FEW) for _ in range(random.randrange(least, end)))


class FixedGrammar:
    """A grammar that allows the same tokens at any time."""

    def __init__(self, token_ids: Any, vocab_size: int) -> None:
        self._words = words_of(token_ids, vocab_size)
        self._vocab_size = vocab_size

    def mask(self) -> Tensor:
        return flags_of(self._words, self._vocab_size)

    def bits(self) -> Words:
        return self._words

    def accept(self, token_id: int) -> bool:
        return False


def sequence(sampling: SamplingParams, prompt: Any = (1,), output: Any = (), name: str = "r") -> Sequence:
    """A sequence as the engine has it before it samples."""
    seq = Sequence(GenerateRequest(name, list(prompt), sampling, 1.0), b"", 0.0, 1.0)
    seq.token_ids += output
    return seq


def random_sequence(random: Random, vocab_size: int, seed: int) -> Sequence:
    """A sequence that asks for anything, in the middle of its answer."""
    chosen = {name: make(random, vocab_size) for name, (often, make) in _FIELDS.items() if random.random() < often}
    sampling = SamplingParams(max_tokens=100, seed=seed, **chosen)
    seq = sequence(sampling, _tokens(random, 1, 40), _tokens(random, 0, 10), str(seed))
    if random.random() < 0.2:
        allowed = random.sample(range(vocab_size), random.choice([1, 5, 40]))
        seq.constraint = FixedGrammar(allowed, vocab_size)
    return seq


def random_logits(random: Random, num_rows: int, vocab_size: int) -> Tensor:
    """Flat or peaked rows; in half precision many tokens are equal. Sometimes one is not a number."""
    spread = random.choice([0.5, 2.0, 4.0, 8.0])
    generator = torch.Generator().manual_seed(random.randrange(2**32))
    logits = torch.randn(num_rows, vocab_size, generator=generator).mul_(spread)
    logits = logits.to(random.choice([torch.float32, torch.bfloat16, torch.float16]))
    if random.random() < 0.2:
        logits[random.randrange(num_rows), 3] = float("nan")
    return logits


def grow(random: Random, seqs: list[Sequence]) -> None:
    """Each answer gets a token."""
    for seq in seqs:
        seq.token_ids.append(random.randrange(_FEW))
