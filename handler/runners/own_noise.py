"""How far a model is from itself: stock transformers with another attention, and with a cache.

Layers that round their inputs to 8 bits make a large difference of a small one, so such a model may be far from itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handler.model.loader import LoadedModel
from handler.seam.config import Quantize

# Forms of weights that are multiplied by inputs as they are.
_UNROUNDED = frozenset({Quantize.NONE, Quantize.INT8_BLOCKS, Quantize.INT4_BLOCKS, Quantize.NF4, Quantize.FP4, "gguf"})
# Tokens of the first pass with a cache, and of those that decode at the end.
_FIRST, _DECODED = 3, 4


@dataclass(frozen=True, slots=True)
class Noise:
    """Differences of logits, relative as in the trial: of the median row of a text, and of any row."""

    median: float = 0.0
    worst: float = 0.0


NO_NOISE = Noise()


def rounds_inputs(loaded: LoadedModel) -> bool:
    """Whether layers of the model may round what they multiply: those of a form that a library computes."""
    return loaded.quantize not in _UNROUNDED


@torch.inference_mode()
def own_noise(loaded: LoadedModel, texts: Sequence[list[int]], expected: Sequence[Tensor]) -> Noise:
    """The largest of all `texts`. `expected` are their eager logits; the model is set to its own attention.

    Raises what the model raises.
    """
    gaps = [
        relative_gaps(rows, other)
        for text, rows in zip(texts, expected, strict=True)
        for other in _other_ways(loaded.model, torch.tensor([text], device=loaded.device))
    ]
    return Noise(max(float(each.median()) for each in gaps), max(float(each.max()) for each in gaps))


def relative_gaps(expected: Tensor, got: Tensor) -> Tensor:
    """The largest difference of each row, relative to the row's largest, at least 1; infinity for NaN."""
    return ((expected - got).abs().amax(-1) / expected.abs().amax(-1).clamp(min=1.0)).nan_to_num(float("inf"))


def _other_ways(model: Any, tokens: Tensor) -> Iterator[Tensor]:
    yield model(input_ids=tokens, use_cache=False).logits[0].float()
    cache, rows = None, []
    length = tokens.shape[1]
    middle = max(length - _FIRST - _DECODED, 0)
    for part in tokens.split([min(_FIRST, length), middle, *[1] * (length - min(_FIRST, length) - middle)], dim=1):
        if part.shape[1]:
            found = model(input_ids=part, past_key_values=cache, use_cache=True)
            cache = found.past_key_values
            rows.append(found.logits[0].float())
    yield torch.cat(rows)
