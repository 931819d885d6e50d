"""When a sequence ends: end-of-sequence and stop tokens, the token limit, the context. Pure Python.

The web process finds stop strings: it has the text.
"""

from __future__ import annotations

from collections.abc import Collection

from handler.scheduling.sequence import Sequence
from handler.seam.protocol import FinishReason


def finish_reason(seq: Sequence, eos_token_ids: Collection[int], max_model_len: int) -> FinishReason | None:
    """Why `seq` ends after its newest token, or None.

    An end-of-sequence token on the last allowed position counts as EOS, not as LENGTH: the answer is complete
    (TGI reports length there; see docs/tgi-differences.md).
    """
    sampling = seq.sampling
    token_id = seq.token_ids[-1]
    if seq.num_output_tokens >= sampling.min_tokens:
        if token_id in eos_token_ids and not sampling.ignore_eos:
            return FinishReason.EOS
        if token_id in sampling.stop_token_ids:
            return FinishReason.STOP_TOKEN
    if seq.num_output_tokens >= sampling.max_tokens or len(seq.token_ids) >= max_model_len:
        return FinishReason.LENGTH
    return None
