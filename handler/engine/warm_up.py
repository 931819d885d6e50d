"""Harmless prompts: run before the first request, and to check that the model still works after failures."""

from __future__ import annotations

from handler.sampling.grammar import GrammarCompiler, GrammarError
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, Grammar, GrammarKind, SamplingParams

_USUAL = SamplingParams(max_tokens=2, seed=0, temperature=0.7, top_p=0.9, ignore_eos=True)
_KINDS = (
    SamplingParams(max_tokens=2, seed=0, temperature=0.0, num_logprobs=0, num_prompt_logprobs=2),
    SamplingParams(max_tokens=2, seed=0, top_k=20, top_p=0.9, num_logprobs=3, warped_logprobs=True),
    SamplingParams(max_tokens=2, seed=0, min_p=0.1, typical_p=0.9, num_logprobs=3, watermark=(0.5, 2.0)),
    SamplingParams(max_tokens=2, seed=0, repetition_penalty=1.2, frequency_penalty=0.1, presence_penalty=0.1),
    SamplingParams(max_tokens=2, seed=0, temperature=0.0, logit_bias={0: 1.0}, bad_words=((1,), (1, 2)), min_tokens=1),
)
_GRAMMAR = Grammar(GrammarKind.REGEX, "[a-z ]+")


def warm_up_sequence(vocab_size: int, max_model_len: int, sampling: SamplingParams = _USUAL) -> Sequence:
    """A prompt of up to 8 equal tokens, continued by 2 sampled ones."""
    ids = [min(3, vocab_size - 1)] * min(8, max_model_len - 2)
    return Sequence(GenerateRequest("warm-up", ids, sampling, 600.0), b"", 0.0, float("inf"))


def sequences_of_each_kind(vocab_size: int, max_model_len: int, grammars: GrammarCompiler) -> list[Sequence]:
    """A sequence for each way to choose a token.

    CUDA loads a kernel at its first use, which takes some tenths of a second of whoever needs it first. A model whose
    tokenizer takes no grammars goes without that kind.
    """
    found = [warm_up_sequence(vocab_size, max_model_len, kind) for kind in _KINDS]
    constrained = warm_up_sequence(vocab_size, max_model_len)
    try:
        constrained.constraint = grammars.submit(_GRAMMAR).result()
    except GrammarError:
        return found
    return [*found, constrained]
