"""Random requests for tests of memory books: when they come, what they share, how they are torn away."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from handler.scheduling.prefix_index import chain_digest
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams

MAX_LEN = 64


def sequence(
    name: str, ids: list[int], max_tokens: int, salt: str = "", reuse: bool = True, scored: bool = False
) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens, seed=0, num_prompt_logprobs=0 if scored else None)
    request = GenerateRequest(name, ids, params, 60.0, cache_salt=salt, reuse_prefix=reuse)
    return Sequence(request, b"w", 0.0, 60.0)


def history(seq: Sequence, position: int) -> tuple[str, tuple[int, ...]]:
    """What the keys at a position follow from: the salt they are kept under, and all tokens up to there."""
    return seq.request.cache_salt, tuple(seq.token_ids[: position + 1])


@dataclass
class Arrival:
    """A request, when it comes, and when and how it is torn away, if it is."""

    at: int
    seq: Sequence
    end: int | None
    invalidated: bool


@st.composite
def arrivals(draw: st.DrawFn) -> list[Arrival]:
    """Prompts over few tokens and with common beginnings, so that prefixes are shared."""
    stems = draw(st.lists(st.lists(st.integers(0, 1), max_size=40), min_size=1, max_size=3))
    found = []
    for i in range(draw(st.integers(1, 12))):
        ids = (draw(st.sampled_from(stems)) + draw(st.lists(st.integers(0, 2), min_size=1, max_size=12)))[: MAX_LEN - 1]
        seq = sequence(
            str(i),
            ids,
            draw(st.integers(1, 40)),
            draw(st.sampled_from(["", "", "tenant"])),
            draw(st.sampled_from([True, True, True, False])),
            draw(st.sampled_from([False, False, False, True])),
        )
        found.append(Arrival(draw(st.integers(0, 25)), seq, draw(st.none() | st.integers(0, 40)), draw(st.booleans())))
    return found


def colliding_digest(parent: bytes, tokens: bytes) -> bytes:
    """One of four."""
    return bytes([chain_digest(parent, tokens)[0] & 3])
