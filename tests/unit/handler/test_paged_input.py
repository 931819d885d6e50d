"""The static decode buffers say the same as a freshly flattened batch, whatever was in them before."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.runners.paged.input import DecodeBuffers, batch_sizes, build_paged_input
from handler.scheduling.block_manager import TRASH_PAGE
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams

CPU = torch.device("cpu")
PAGE = 4
MAX_LEN = 30


def item(
    start: int, num_tokens: int, pages: list[int], length: int | None = None, scored: bool = False
) -> ScheduledSequence:
    ids = [(7 * i + start) % 50 for i in range(length or start + num_tokens)]
    params = SamplingParams(max_tokens=1, seed=0, num_prompt_logprobs=0 if scored else None)
    seq = Sequence(GenerateRequest("r", ids, params, 1.0), b"", 0.0, 1.0, block_table=pages)
    return ScheduledSequence(seq, start, num_tokens)


@st.composite
def decode_batches(draw: st.DrawFn) -> list[list[ScheduledSequence]]:
    """Batches whose sequences have distinct pages, a few more than they need."""
    batches = []
    for _ in range(draw(st.integers(1, 6))):
        starts = draw(st.lists(st.integers(0, MAX_LEN - 1), min_size=1, max_size=10))
        pages = draw(st.permutations(range(1, 100)))
        batches.append(
            [item(start, 1, list(pages[8 * i : 8 * i + start // PAGE + 1])) for i, start in enumerate(starts)]
        )
    return batches


@settings(max_examples=50)
@given(batches=decode_batches())
def test_buffers_hold_the_batch_and_harmless_padding(batches: list[list[ScheduledSequence]]) -> None:
    buffers = DecodeBuffers(10, MAX_LEN, PAGE, CPU)
    memory = [tensor.data_ptr() for tensor in (buffers.view(10).input_ids, buffers.view(10).block_table)]
    for items in batches:
        size = buffers.fill(items)
        assert size >= len(items)
        found, fresh, n = buffers.view(size), build_paged_input(ScheduledBatch(items), PAGE, CPU), len(items)
        assert found.max_k >= fresh.max_k
        assert found.max_q == fresh.max_q == 1
        for name in ("input_ids", "position_ids"):
            assert getattr(found, name)[:, :n].equal(getattr(fresh, name))
            assert not getattr(found, name)[:, n:].any()
        for name in ("slot_mapping", "seqused_k"):
            assert getattr(found, name)[:n].equal(getattr(fresh, name))
        for name in ("cu_seq_q", "cu_seq_k"):
            assert getattr(found, name)[: n + 1].equal(getattr(fresh, name))
            assert (getattr(found, name)[n:].diff() == 1).all()
        width = fresh.block_table.shape[1]
        assert found.block_table[:n, :width].equal(fresh.block_table)
        assert (found.block_table[n:] == TRASH_PAGE).all()
        assert (found.slot_mapping[n:] // PAGE == TRASH_PAGE).all()
        assert (found.seqused_k[n:] == 1).all()
        for row, one in enumerate(items):
            assert (found.block_table[row, len(one.seq.block_table) :] == TRASH_PAGE).all()
    assert memory == [tensor.data_ptr() for tensor in (buffers.view(10).input_ids, buffers.view(10).block_table)]


def test_flattened_prompts_and_decodes() -> None:
    batch = ScheduledBatch(
        [item(5, 1, [3, 1]), item(2, 4, [2, 7], scored=True), item(0, 3, [5], length=8), item(4, 3, [6, 4])]
    )
    found = build_paged_input(batch, PAGE, CPU)
    assert found.position_ids.tolist() == [[5, 2, 3, 4, 5, 0, 1, 2, 4, 5, 6]]
    assert found.slot_mapping.tolist() == [5, 10, 11, 28, 29, 20, 21, 22, 16, 17, 18]
    assert found.cu_seq_q.tolist() == [0, 1, 5, 8, 11]
    assert found.seqused_k.tolist() == [6, 6, 3, 7]
    assert found.cu_seq_k.tolist() == [0, 6, 12, 15, 22]
    assert found.block_table.tolist() == [[3, 1], [2, 7], [5, 0], [6, 4]]
    assert found.logits_index is not None
    assert found.logits_index.tolist() == [0, 4, 10, 1, 2, 3, 4], "who samples, then the scored chunk"
    assert (found.max_q, found.max_k) == (4, 7)


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20]), (24, [1, 2, 4, 8, 16, 24])],
)
def test_batch_sizes(most: int, sizes: list[int]) -> None:
    assert batch_sizes(most) == sizes
