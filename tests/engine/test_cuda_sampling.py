"""Sampling on a pretended GPU: how many kernels and host waits a step takes, and that it says what CPU says."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handler.sampling.edits import amount_table
from handler.sampling.edits.device_edits import DeviceEdits
from handler.sampling.edits.penalties import row_edit
from handler.sampling.edits.row_edits import RowEdits
from handler.sampling.prompt_scores import score_prompt
from handler.sampling.sampler import Sampled, sample
from handler.sampling.transfer import upload
from handler.scheduling.scheduler import ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import ErrorCode, SamplingParams
from tests.support.pretend_cuda import Gpus, gpus_of, pretend_cuda
from tests.support.random_requests import FixedGrammar, grow, random_logits, random_sequence, sequence

pytestmark = pytest.mark.usefixtures("one_thread")
EOS = {2, 3}
VOCAB = 5000
TOP_P: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9}
GRAMMAR: dict[str, Any] = TOP_P | {"grammar": True}
KINDS: dict[str, list[dict[str, Any]]] = {
    "greedy": [{"temperature": 0.0}],
    "temperature": [{}],
    "top-p": [TOP_P],
    "top-k, top-p, min-p": [TOP_P, {"top_k": 40}, {"min_p": 0.05}, {"top_k": 30, "top_p": 0.9, "min_p": 0.01}],
    "wide top-k": [{"top_k": 3000}],
    "typical": [{"typical_p": 0.8}],
    "repetition": [TOP_P | {"repetition_penalty": 1.2}],
    "penalties": [TOP_P | {"repetition_penalty": 1.2, "frequency_penalty": 0.2, "presence_penalty": 0.1}],
    "by length": [TOP_P | {"repetition_penalty": 1.2, "frequency_penalty": 0.2, "length_penalised_frequency": True}],
    "bias": [TOP_P | {"logit_bias": {5: 2.0, 7: -100.0}}],
    "bans": [TOP_P | {"bad_words": ((4,),), "min_tokens": 900}],
    "allowed": [TOP_P | {"allowed_token_ids": (4, 5, 6)}],
    "grammar": [GRAMMAR],
    "watermark": [TOP_P | {"watermark": (0.5, 2.0)}],
    "log-probabilities": [TOP_P | {"num_logprobs": 5}],
    "greedy log-probabilities": [{"temperature": 0.0, "num_logprobs": 5}],
    "log-probabilities of all": [{"num_logprobs": 5}],
    "warped log-probabilities": [TOP_P | {"num_logprobs": 5, "warped_logprobs": True}],
    "greedy, temperature and top-p": [{"temperature": 0.0}, {}, TOP_P],
}


@pytest.fixture
def gpus() -> Iterator[Gpus]:
    with pretend_cuda(gpus_of("A10G")) as found:
        yield found


def asking(kinds: list[dict[str, Any]], num_rows: int) -> list[Sequence]:
    seqs = []
    for i in range(num_rows):
        wanted = dict(kinds[i % len(kinds)])
        grammar = wanted.pop("grammar", False)
        sampling = SamplingParams(max_tokens=1000, seed=i, **wanted)
        seqs.append(sequence(sampling, [j % 50 for j in range(40)], name=str(i)))
        if grammar:
            seqs[-1].constraint = FixedGrammar(range(0, VOCAB, 3), VOCAB)
    return seqs


def peaked(num_rows: int, vocab_size: int = VOCAB) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(1)).mul_(5)


def counted(gpus: Gpus, logits: Tensor, seqs: list[Sequence]) -> tuple[int, int, int]:
    """Kernels, host waits and pageable uploads of a step."""
    gpus.reset()
    assert all(found.token_id is not None for found in sample(logits, seqs, EOS))
    return gpus.kernels.total(), gpus.waits.total(), gpus.uploads.total()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_rows", [1, 64])
def test_a_step_takes_thirty_kernels_and_one_wait(gpus: Gpus, kind: str, num_rows: int) -> None:
    """The first step of sequences too, which makes their rows of the table."""
    seqs, logits = asking(KINDS[kind], num_rows), peaked(num_rows).to("cuda", torch.bfloat16)
    first = counted(gpus, logits, seqs)
    grow(Random(0), seqs)
    later = counted(gpus, logits, seqs)
    assert max(first[0], later[0]) <= 30
    assert first[1:] == later[1:] == (1, 0)


@pytest.mark.parametrize(
    ("kinds", "most"),
    [
        ([{"temperature": 0.0}, {}, TOP_P, *KINDS["penalties"], GRAMMAR, *KINDS["log-probabilities"]], 45),
        ([wanted for wanteds in KINDS.values() for wanted in wanteds], 99),
    ],
    ids=["common", "all"],
)
def test_kinds_that_meet_in_a_step_share_its_wait(gpus: Gpus, kinds: list[dict[str, Any]], most: int) -> None:
    """Kernels grow with the kinds that meet, not with the rows (decision 0094)."""
    found = []
    for times in (1, 2):
        seqs = asking(kinds, times * len(kinds))
        logits = peaked(len(seqs)).to("cuda", torch.bfloat16)
        sample(logits, seqs, EOS)
        grow(Random(0), seqs)
        found.append(counted(gpus, logits, seqs))
    assert found[0] == found[1]
    assert found[0][0] <= most
    assert found[0][1:] == (1, 0)


def forget(seqs: list[Sequence]) -> list[Sequence]:
    """The same requests, as the engine got them."""
    made = []
    for seq in seqs:
        made.append(sequence(seq.sampling, seq.request.prompt_token_ids, seq.token_ids[seq.num_prompt_tokens :]))
        made[-1].constraint = seq.constraint
    return made


def alike(one: Sampled, other: Sampled) -> bool:
    if (one.token_id, one.error, one.logprob is None) != (other.token_id, other.error, other.logprob is None):
        return False
    if one.logprob is None or other.logprob is None:
        return True
    values = [[found.logprob, *sorted(value for _, value in found.top)] for found in (one.logprob, other.logprob)]
    return len(values[0]) == len(values[1]) and np.allclose(*values, rtol=1e-4, atol=1e-4)


def test_a_gpu_says_what_cpu_says(gpus: Gpus) -> None:
    """But where log-probabilities in float32 decide a close call; and each row as when it is alone."""
    num, different = 0, []
    for seed in range(15):
        random = Random(seed)
        vocab = random.choice([60, 700, VOCAB])
        seqs = [random_sequence(random, vocab, 100 * seed + i) for i in range(7)]
        logits = random_logits(random, 7, vocab)
        on_gpu, copies = logits.to("cuda"), forget(seqs)
        for _ in range(2):
            expected, found = sample(logits, seqs, EOS), sample(on_gpu, copies, EOS)
            alone = [sample(on_gpu[i : i + 1], [seq], EOS)[0] for i, seq in enumerate(forget(copies))]
            assert found == alone, seed
            num += len(seqs)
            different += [(seed, i) for i, pair in enumerate(zip(expected, found, strict=True)) if not alike(*pair)]
            for each in (seqs, copies):
                grow(Random(seed), each)
    assert len(different) <= num // 50, different


def test_each_row_has_its_own_mask_whichever_rows_have_one(gpus: Gpus) -> None:
    logits = peaked(3, 700).to("cuda")
    for constrained in [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]:
        seqs = asking([{"temperature": 0.0}], 3)
        allowed = [range(700) if i not in constrained else range(i, 700, 7) for i in range(3)]
        for i in constrained:
            seqs[i].constraint = FixedGrammar(allowed[i], 700)
        expected = [max(tokens, key=lambda token: float(logits[i, token])) for i, tokens in enumerate(allowed)]
        assert [found.token_id for found in sample(logits, seqs, EOS)] == expected, constrained


def test_a_nucleus_beyond_the_candidates_is_looked_for_again(gpus: Gpus) -> None:
    """Two more waits at most, for these rows alone; raw log-probabilities are those of the token drawn last."""
    kinds = [TOP_P, {"top_p": 0.999, "num_logprobs": 2}, {"top_p": 0.3, "num_logprobs": 2, "warped_logprobs": True}]
    seqs = asking(kinds, 6)
    logits = peaked(6, 9000).mul_(0.02)
    logits[0] *= 200
    expected = sample(logits, forget(seqs), EOS)
    on_gpu = logits.to("cuda")
    gpus.reset()
    found = sample(on_gpu, seqs, EOS)
    assert all(map(alike, found, expected))
    # Each further look uploads its plan and what it reports, unawaited.
    assert gpus.waits.total() == 3


def test_rows_that_are_sorted_whole_take_memory_for_some_at_a_time(gpus: Gpus) -> None:
    """256 of them take less than three times as much as 64, and each gets what it gets beside others."""
    most, found = {}, {}
    asked = asking([{"typical_p": 0.8, "num_logprobs": 5, "warped_logprobs": True}], 256)
    logits = torch.randn(256, VOCAB).to("cuda")
    for num_rows in (64, 256):
        gpus.all[0].reset_peak()
        before = gpus.all[0].allocated
        found[num_rows] = sample(logits[:num_rows], asked[:num_rows], EOS)
        most[num_rows] = gpus.all[0].most_allocated - before
    assert most[256] < 3 * most[64]
    assert found[256][:64] == found[64]
    assert found[256][200:] == sample(logits[200:], asked[200:], EOS)


def test_the_table_follows_sequences_that_come_and_go(gpus: Gpus) -> None:
    """Joined, preempted, resumed at another place of the batch, finished: rows of the table are used again."""
    random = Random(5)
    kinds = [*KINDS["penalties"], *KINDS["repetition"], *KINDS["by length"], {"frequency_penalty": 0.5}, {}]
    waiting, running, sizes, most = asking(kinds, 60), asking(kinds, 5), set(), 0
    while running:
        logits = torch.randn(len(running), VOCAB)
        edits = DeviceEdits([row_edit(seq, EOS) for seq in running], VOCAB, torch.device("cuda", 0))
        found = edits.apply(logits.to("cuda"), upload(edits.arrays(), torch.device("cuda", 0))).cpu()
        copies = [row_edit(seq, EOS) for seq in forget(running)]
        rows = [i for i, edit in enumerate(copies) if edit is not None]
        expected = logits.clone()
        expected[rows] = RowEdits(rows, [edit for edit in copies if edit is not None], VOCAB).apply(
            logits, {"edited": torch.tensor(rows)}
        )
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        sizes |= {len(seq.table_rows.table.rows) for seq in running if seq.table_rows is not None}
        grow(random, running)
        # One is finished, two are preempted, others come to any place.
        random.shuffle(running)
        waiting += running[1:3]
        running = running[3:]
        for _ in range(min(len(waiting), random.randrange(2, 5))):
            running.insert(random.randrange(len(running) + 1), waiting.pop(random.randrange(len(waiting))))
        most = max(most, len(running) + len(waiting))
    del edits, copies
    gc.collect()
    assert len(sizes) > 1
    assert max(sizes) <= 2 * (2 + 2 * most)
    assert not amount_table._tables


def test_no_step_uploads_a_text_again(gpus: Gpus) -> None:
    seqs = asking(KINDS["penalties"], 3)
    logits = peaked(3).to("cuda")
    sample(logits, seqs, EOS)
    for _ in range(3):
        grow(Random(1), seqs)
        arrays = DeviceEdits([row_edit(seq, EOS) for seq in seqs], VOCAB, torch.device("cuda", 0)).arrays()
        assert len(arrays["entries"]) == 2 * 3
        sample(logits, seqs, EOS)


def test_memory_is_taken_by_penalties_alone_and_given_back(gpus: Gpus) -> None:
    logits = peaked(40).to("cuda")
    before = gpus.all[0].allocated
    sample(logits, asking(KINDS["top-p"], 40), EOS)
    assert gpus.all[0].allocated == before
    seqs = asking(KINDS["penalties"], 40)
    sample(logits, seqs, EOS)
    assert gpus.all[0].allocated - before == 4 * VOCAB * (2 + 2 * 40)
    del seqs
    gc.collect()
    assert gpus.all[0].allocated == before


def test_rows_fail_alone(gpus: Gpus) -> None:
    kinds = [TOP_P, {"temperature": 0.0}, {}, TOP_P | {"allowed_token_ids": (4,), "logit_bias": {4: float("-inf")}}]
    seqs, logits = asking(kinds, 8), peaked(8)
    logits[0, 5] = float("nan")
    logits[5, 6] = float("inf")
    found = sample(logits.to("cuda"), seqs, EOS)
    errors = {0: ErrorCode.NUMERICS, 5: ErrorCode.NUMERICS, 3: ErrorCode.INVALID, 7: ErrorCode.INVALID}
    assert {i: each.error for i, each in enumerate(found) if each.error} == errors
    expected = sample(logits, forget(seqs), EOS)
    assert all(map(alike, found, expected))


def test_a_block_of_a_prompt_is_scored_with_one_wait(gpus: Gpus) -> None:
    sampling = SamplingParams(max_tokens=1, seed=0, num_prompt_logprobs=2)
    seqs = [sequence(sampling, [7 * j % 50 for j in range(200)]) for _ in range(2)]
    logits = peaked(200)
    score_prompt(logits, ScheduledSequence(seqs[0], 0, 200))
    score_prompt(logits.to("cuda"), ScheduledSequence(seqs[1], 0, 200))
    assert seqs[0].prompt_logprobs == seqs[1].prompt_logprobs
    assert (gpus.waits.total(), gpus.uploads.total()) == (2, 1)
