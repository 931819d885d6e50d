"""Books of the page store beside slots, where they meet another sequence's failure."""

from __future__ import annotations

from handler.protocol import GenerateRequest, SamplingParams
from handler.sequence import Sequence
from handler.slot_prefixes import SlotPrefixes


class Nothing:
    """Moves no pages."""

    def save_page(self, slot: int, start: int, page: int) -> None: ...

    def restore_pages(self, pages: list[int], slot: int) -> None: ...


def test_a_sequence_outlives_the_distrust_of_what_it_shares() -> None:
    prefixes = SlotPrefixes(8, 4, Nothing())
    failing, healthy = (
        Sequence(GenerateRequest(str(slot), ids, SamplingParams(max_tokens=9, seed=0), 1.0), b"", 0.0, 1.0, slot=slot)
        for slot, ids in enumerate([[1] * 20, [1] * 8 + [2] * 12])
    )
    prefixes.restore(failing)
    failing.num_computed = 8
    prefixes.save(failing)
    prefixes.restore(healthy)
    assert healthy.num_computed == 8
    prefixes.distrust(failing.slot)
    prefixes.release(failing.slot)
    prefixes.check_integrity({healthy.slot})
    healthy.num_computed = 16
    prefixes.save(healthy)
    prefixes.check_integrity({healthy.slot})
    prefixes.release(healthy.slot)
    prefixes.check_integrity(set())
