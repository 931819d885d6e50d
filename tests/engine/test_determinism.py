"""A sequence's logits are the same, to the last bit, whatever runs beside it and however its prompt was cut.

CPU, bfloat16 and float32, over the weights laid out as the server lays them out. docs/decisions/0007 says what holds
this together; torch, oneDNN or another processor may break it, and this is where it shows.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from handler.linears.packed_linear import KERNEL, Kernel, fits
from handler.linears.weight_blocks import quantise
from handler.runners.slots.runner import SlotRunner
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams
from tests.support import tiny_models
from tests.support.local_engine import loaded
from tests.support.needs import require
from tests.support.packed import pack_linears, packed_by_torch

pytestmark = pytest.mark.usefixtures("several_threads")

LENGTHS = [1, 2, 3, 5, 17, 33, 34, 40, 64, 100, 130]
NUM_STEPS = 6


# Wide enough for the kernels' inner blocks, which the tiny models are not.
WIDE = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
# Every shape is one that our own kernels take, so that layers run in one go.
EVEN = WIDE | {"head_dim": 64}

CASES = {
    "bfloat16": (torch.bfloat16, True, 0, WIDE),
    "float32": (torch.float32, True, 0, WIDE),
    "bfloat16 without numba": (torch.bfloat16, False, 0, WIDE),
    "float32 without numba": (torch.float32, False, 0, WIDE),
    "four bits": (torch.bfloat16, True, 4, WIDE),
    "four bits, even": (torch.bfloat16, True, 4, EVEN),
    "eight bits": (torch.bfloat16, True, 8, WIDE),
    "bfloat16, even": (torch.bfloat16, True, 0, EVEN),
}


@pytest.fixture(scope="module", params=CASES)
def runner(request: pytest.FixtureRequest) -> SlotRunner:
    dtype, has_numba, bits, sizes = CASES[request.param]
    if dtype is torch.bfloat16:
        require("avx512")
    model = tiny_models.build("llama", **sizes).to(dtype)
    if bits:
        assert pack_linears(model, bits)
    runner = SlotRunner(loaded(model), num_slots=16, max_len=256)
    with pytest.MonkeyPatch.context() as patch:
        if not has_numba:
            patch.setitem(sys.modules, "numba", None)
        runner.accelerate()
        runner.prove()
    return runner


@pytest.fixture(scope="module")
def packed_runner() -> SlotRunner:
    """Weights of four bits beside dense ones, as the bundled model has them."""
    require("avx512")
    model = tiny_models.build("llama", **WIDE).to(torch.bfloat16)
    with torch.no_grad():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is torch.nn.Linear and fits(*child.weight.shape):
                    blocks = quantise(child.weight, 4)
                    dense = blocks.dequantise(torch.bfloat16)
                    setattr(parent, name, packed_by_torch(blocks, None, torch.bfloat16, dense=dense))
    runner = SlotRunner(loaded(model), num_slots=16, max_len=256)
    runner.accelerate()
    runner.prove()
    return runner


def sequence(token_ids: list[int], slot: int) -> Sequence:
    request = GenerateRequest(str(slot), list(token_ids), SamplingParams(max_tokens=NUM_STEPS + 1, seed=0), 1.0)
    return Sequence(request, b"", 0.0, 1.0, slot=slot)


class Life:
    """One sequence on its way: prompt in chunks, then greedy tokens, and the logits of each."""

    def __init__(self, token_ids: list[int], slot: int) -> None:
        self.seq = sequence(token_ids, slot)
        self.logits: list[Tensor] = []

    @property
    def done(self) -> bool:
        return len(self.logits) > NUM_STEPS

    def item(self, chunk: int) -> ScheduledSequence:
        left = len(self.seq.token_ids) - self.seq.num_computed
        return ScheduledSequence(self.seq, self.seq.num_computed, min(chunk, left))

    def take(self, logits: Tensor) -> None:
        self.logits.append(logits.clone())
        self.seq.token_ids.append(int(logits.argmax()))


def step(runner: SlotRunner, lives: list[Life], chunk: Callable[[], int] = lambda: 10**6) -> None:
    items = [life.item(chunk()) for life in lives]
    found = runner.run(ScheduledBatch(items))
    for item in items:
        item.seq.num_computed = item.start + item.num_tokens
    by_slot = {life.seq.slot: life for life in lives}
    for item, logits in zip(found.samples, found.logits, strict=True):
        by_slot[item.seq.slot].take(logits)


def alone(runner: SlotRunner, token_ids: list[int]) -> list[Tensor]:
    life = Life(token_ids, 0)
    while not life.done:
        step(runner, [life])
    return life.logits


def prompts(rng: random.Random) -> list[list[int]]:
    return [[rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(length)] for length in LENGTHS]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def unequal(runner: SlotRunner, seed: int) -> int:
    """How many texts get other bits among random neighbours, their prompts cut at random, than alone."""
    rng = random.Random(seed)
    texts = prompts(rng)
    expected = [alone(runner, text) for text in texts]
    slots = rng.sample(range(16), len(texts))
    lives = [Life(text, slot) for text, slot in zip(texts, slots, strict=True)]
    waiting = rng.sample(lives, len(lives))
    running: list[Life] = []
    while waiting or any(not life.done for life in running):
        if waiting and rng.random() < 0.6:
            running.append(waiting.pop())
        going = [life for life in running if not life.done]
        if going:
            step(runner, going, lambda: rng.randint(1, 70))
    return sum(not same(life.logits, logits) for life, logits in zip(lives, expected, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_random_neighbours_and_random_chunks(seed: int, runner: SlotRunner) -> None:
    assert unequal(runner, seed) == 0


def test_packed_weights_switch_kernels_unless_deterministic(packed_runner: SlotRunner) -> None:
    assert unequal(packed_runner, 0) > 0, "by rows: otherwise this test shows nothing"
    with KERNEL.using(Kernel.DENSE):
        assert unequal(packed_runner, 0) == 0


def test_a_preempted_sequence_runs_its_own_tokens_again_to_the_same_bits(runner: SlotRunner) -> None:
    for text in prompts(random.Random(9)):
        expected = alone(runner, text)
        first = Life(text, 3)
        while len(first.logits) < NUM_STEPS // 2:
            step(runner, [first])
        again = Life(first.seq.token_ids, 7)
        again.logits = first.logits
        while not again.done:
            step(runner, [again])
        assert same(again.logits, expected)
