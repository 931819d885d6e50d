"""A harmless prompt: run before the first request, and to check that the model still works after failures."""

from __future__ import annotations

from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams


def warm_up_sequence(vocab_size: int, max_model_len: int) -> Sequence:
    """A prompt of up to 8 equal tokens, continued by 2 sampled ones."""
    ids = [min(3, vocab_size - 1)] * min(8, max_model_len - 2)
    sampling = SamplingParams(max_tokens=2, seed=0, temperature=0.7, top_p=0.9, ignore_eos=True)
    return Sequence(GenerateRequest("warm-up", ids, sampling, 600.0), b"", 0.0, float("inf"))
