"""The static decode buffers say the same as a freshly flattened batch, whatever was in them before."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.runners.paged import step_buffers
from handler.runners.paged.input import build_paged_input
from handler.runners.paged.step_buffers import MAX_CHUNKS, Shape, StepBuffers, decode_shapes, mixed_shapes, smallest
from handler.scheduling.block_manager import TRASH_PAGE
from handler.scheduling.scheduler import ScheduledSequence
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
    shapes = decode_shapes(10)
    buffers = StepBuffers(shapes, MAX_LEN, PAGE, CPU)
    memory = [t.data_ptr() for t in (buffers.view(shapes[-1]).input_ids, buffers.view(shapes[-1]).block_table)]
    for items in batches:
        shape = smallest(shapes, len(items), [])
        assert shape is not None
        buffers.fill(shape, items, [])
        found, fresh, n = buffers.view(shape), build_paged_input(items, PAGE, CPU), len(items)
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
        assert memory == [tensor.data_ptr() for tensor in (found.input_ids, found.block_table)]


@settings(max_examples=50)
@given(data=st.data())
def test_buffers_hold_decodes_beside_chunks(data: st.DataObject) -> None:
    """As a freshly flattened batch of the decodes and of the chunks, each followed by padding."""
    shapes = mixed_shapes(10, 70, (8, 6))
    buffers = StepBuffers(shapes, 70, PAGE, CPU)
    for _ in range(3):
        pages = [[8 * i + j for j in range(1, 9)] for i in range(20)]
        starts = data.draw(st.lists(st.integers(0, MAX_LEN - 1), max_size=10))
        decodes = [item(start, 1, pages.pop()) for start in starts]
        sizes = data.draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=3))
        chunks = [item(start, size, pages.pop(), length=20) for start, size in sizes]
        shape = smallest(shapes, len(decodes), chunks)
        assert shape is not None
        buffers.fill(shape, decodes, chunks)
        whole, first = buffers.view(shape), shape.num_decodes
        lone, rest = whole.parts() if first else (None, whole)
        for items, row, seq, part in ((decodes, 0, 0, lone), (chunks, first, first, rest)):
            if not items:
                continue
            assert part is not None
            fresh = build_paged_input(items, PAGE, CPU)
            end, n = row + fresh.slot_mapping.numel(), len(items)
            assert whole.input_ids[:, row:end].equal(fresh.input_ids)
            assert whole.position_ids[:, row:end].equal(fresh.position_ids)
            assert whole.slot_mapping[row:end].equal(fresh.slot_mapping)
            assert part.cu_seq_q[: n + 1].equal(fresh.cu_seq_q + row)
            assert part.seqused_k[:n].equal(fresh.seqused_k)
            assert part.block_table[:n, : fresh.block_table.shape[1]].equal(fresh.block_table)
            assert whole.logits_index is not None
            assert whole.logits_index[seq : seq + n].equal(fresh.cu_seq_q[1:].long() - 1 + row)
        padded = shape.num_chunk_tokens - sum(size for _, size in sizes)
        assert (whole.slot_mapping[shape.num_tokens - padded :] // PAGE == TRASH_PAGE).all()
        queries = rest.cu_seq_q.diff()[len(chunks) :]
        assert queries.tolist() == [padded] + [0] * (MAX_CHUNKS - len(chunks))
        assert (rest.seqused_k[len(chunks) :] >= queries.clamp(min=1)).all()
        assert (rest.block_table[len(chunks) :] == TRASH_PAGE).all()
        assert int(rest.seqused_k.max()) <= rest.max_k


def test_tables_whose_upload_failed_are_uploaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a sequence would read the pages of the one that had its row before."""
    shape = Shape(4)
    buffers = StepBuffers([shape], MAX_LEN, PAGE, CPU)
    before, after = ([item(5, 1, [2 * i + first, 2 * i + first + 1]) for i in range(4)] for first in (1, 11))
    buffers.fill(shape, before, [])
    copy, calls = step_buffers._copy, []

    def failing(host: torch.Tensor, into: torch.Tensor) -> None:
        calls.append(into)
        if len(calls) == 2:
            raise RuntimeError("CUDA error: out of memory")
        copy(host, into)

    monkeypatch.setattr(step_buffers, "_copy", failing)
    with pytest.raises(RuntimeError):
        buffers.fill(shape, after, [])
    # The second half runs again, between rows as they were.
    buffers.fill(shape, [before[0], after[1], before[2], after[3]], [])
    assert buffers.view(shape).block_table[:, :2].tolist() == [[1, 2], [13, 14], [5, 6], [17, 18]]


def test_chunks_of_one_token_are_no_part_of_their_own() -> None:
    """The kernel takes as many rows as sequences where each has one query."""
    decodes = [item(start, 1, [1 + i]) for i, start in enumerate((3, 2))]
    assert len(build_paged_input([*decodes, item(0, 1, [5], length=9)], PAGE, CPU).parts()) == 1
    assert len(build_paged_input([*decodes, item(0, 2, [5], length=9)], PAGE, CPU).parts()) == 2


def test_flattened_prompts_and_decodes() -> None:
    items = [item(5, 1, [3, 1]), item(2, 4, [2, 7], scored=True), item(0, 3, [5], length=8), item(4, 3, [6, 4])]
    found = build_paged_input(items, PAGE, CPU)
    assert found.position_ids.tolist() == [[5, 2, 3, 4, 5, 0, 1, 2, 4, 5, 6]]
    assert found.slot_mapping.tolist() == [5, 10, 11, 28, 29, 20, 21, 22, 16, 17, 18]
    assert found.cu_seq_q.tolist() == [0, 1, 5, 8, 11]
    assert found.seqused_k.tolist() == [6, 6, 3, 7]
    assert found.cu_seq_k.tolist() == [0, 6, 12, 15, 22]
    assert found.block_table.tolist() == [[3, 1], [2, 7], [5, 0], [6, 4]]
    assert found.logits_index is not None
    assert found.logits_index.tolist() == [0, 4, 10, 1, 2, 3, 4], "who samples, then the scored chunk"
    assert (found.max_q, found.max_k) == (4, 7)
    decodes, chunks = found.parts()
    assert (decodes.cu_seq_q.tolist(), decodes.max_q, decodes.seqused_k.tolist()) == ([0, 1], 1, [6])
    assert (chunks.cu_seq_q.tolist(), chunks.max_q, chunks.seqused_k.tolist()) == ([1, 5, 8, 11], 4, [6, 3, 7])
    assert [part.num_decodes for part in build_paged_input(items[1:], PAGE, CPU).parts()] == [0]


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (8, [1, 2, 4, 8]),
        (20, [1, 2, 4, 8, 16, 20]),
        (256, [1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, 256, 32), 256]),
    ],
)
def test_decode_shapes(most: int, sizes: list[int]) -> None:
    assert decode_shapes(most) == [Shape(size) for size in sizes]


def test_mixed_shapes_follow_what_the_gpu_computes_while_the_host_launches() -> None:
    assert Shape(256, 512) in mixed_shapes(256, 8192, (9, 0))
    assert max(shape.num_tokens for shape in mixed_shapes(256, 8192, (8, 6))) <= 96
    assert max(shape.num_chunk_tokens for shape in mixed_shapes(256, 100, (9, 0))) <= 100, "no sequence is longer"
    assert mixed_shapes(4, 8, (9, 0)) == []


def test_the_smallest_shape_that_holds_a_step() -> None:
    shapes = [*decode_shapes(16), *mixed_shapes(16, 512, (9, 0))]
    chunks = [item(0, 10, [1, 2, 3])] * 2
    assert smallest(shapes, 3, []) == Shape(4)
    assert smallest(shapes, 3, chunks) == Shape(8, 64)
    assert smallest(shapes, 0, chunks) == Shape(0, 64)
    assert smallest(shapes, 17, []) is smallest(shapes, 0, chunks[:1] * (MAX_CHUNKS + 1)) is None
    assert smallest(decode_shapes(16), 0, chunks) is None
