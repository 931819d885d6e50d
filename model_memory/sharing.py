"""How engines share the GPUs of a machine: which form of the weights, GPUs for each engine, number of engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Share of a GPU's memory for weights; the rest is for keys, values and activations.
WEIGHTS_SHARE = 0.8
# Share for weights and the keys and values of one sequence; the rest is for activations.
KEYS_SHARE = 0.85
# Tokens of one sequence that must fit beside the weights, unless MAX_TOTAL_TOKENS says otherwise.
USUAL_TOKENS = 4096
# What a CUDA context takes of each GPU.
CONTEXT_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights in one form: bytes in memory, and bytes that a decode step moves."""

    form: str
    num_bytes: int
    moved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """`engines` copies of the model, each over `span` GPUs in a row. `fits` is False if that is too little memory."""

    weights: Weights
    span: int
    engines: int
    fits: bool = True

    @property
    def rate(self) -> float:
        """Figure for the decode steps of all engines in a time, by bytes.

        A step takes as long as its bytes take to read. GPUs in a row work one after the other, so a longer row is no
        faster; engines work at once.
        """
        return self.engines / max(1, self.weights.moved_bytes)

    def __str__(self) -> str:
        where = "on 1 GPU" if self.span == 1 else f"split over {self.span} GPUs"
        room = "" if self.fits else ", short of memory"
        size = f"{self.weights.num_bytes >> 20} MiB"
        engines = "1 engine" if self.engines == 1 else f"{self.engines} engines"
        return f"{self.weights.form} ({size}) {where}, {engines}: {self.rate * 1e12:.1f}{room}"


def fewest_gpus(num_bytes: int, gpu_bytes: int, most: int) -> int:
    """The fewest GPUs that hold the weights, up to `most`."""
    return min(most, max(1, -(-num_bytes // _room(gpu_bytes))))


def share(weights: Weights, gpu_bytes: int, num_gpus: int, most: int | None = None) -> Share:
    """The share for a form that is settled. `most` bounds the GPUs of an engine."""
    span = fewest_gpus(weights.num_bytes, gpu_bytes, most or num_gpus)
    return Share(weights, span, num_gpus // span, weights.num_bytes <= span * _room(gpu_bytes))


def candidates(forms: Sequence[Weights], key_bytes: int, gpu_bytes: int, num_gpus: int, most: int) -> list[Share]:
    """For each form: the fewest GPUs that hold weights and `key_bytes` of keys and values, up to `most`."""
    found = []
    for weights in forms:
        spans = (span for span in range(1, most + 1) if _holds(weights.num_bytes, key_bytes, gpu_bytes, span))
        span = next(spans, 0)
        found.append(Share(weights, span or most, num_gpus // (span or most), bool(span)))
    return found


def weigh(shares: Sequence[Share], *, is_engines_given: bool = False) -> Share:
    """What `auto` takes of `candidates`, the least lossy first: the first that fits, unless a later one is faster.

    A later one is lossier. It is faster if it runs on more engines, and these together do more steps in a time
    (`Share.rate`). With one engine for each GPU there is nothing to gain, nor where the number of engines is given. If
    nothing fits, the last one is taken, and the loader refuses.
    """
    fitting = [one for one in shares if one.fits]
    if not fitting:
        return shares[-1]
    best = fitting[0]
    for one in fitting[1:]:
        if not is_engines_given and one.engines > best.engines and one.rate > best.rate:
            best = one
    return best


def _room(gpu_bytes: int) -> int:
    return max(1, int(gpu_bytes * WEIGHTS_SHARE))


def _holds(num_bytes: int, key_bytes: int, gpu_bytes: int, span: int) -> bool:
    beside = int((gpu_bytes - CONTEXT_BYTES) * KEYS_SHARE) * span
    return num_bytes <= _room(gpu_bytes) * span and num_bytes + key_bytes <= beside
