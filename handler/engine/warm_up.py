"""The harmless prompt: generated from before the first request, and whenever it is in doubt that the model works."""

from __future__ import annotations

from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams


def warm_up_sequence(vocab_size: int, max_model_len: int) -> Sequence:
    """Up to 8 equal tokens, to be continued by two sampled ones."""
    ids = [min(3, vocab_size - 1)] * min(8, max_model_len - 2)
    sampling = SamplingParams(max_tokens=2, seed=0, temperature=0.7, top_p=0.9, ignore_eos=True)
    return Sequence(GenerateRequest("warm-up", ids, sampling, 600.0), b"", 0.0, float("inf"))
