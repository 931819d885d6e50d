"""KV memory beside the measured peak of the largest steps, on pretended GPUs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from accelerate import dispatch_model

from handler import startup
from handler.model.loader import LoadedModel
from handler.runners.choice import choose_runner, paged_probe
from handler.runners.limits import bytes_per_token, derive_limits
from handler.runners.paged.runner import PagedRunner
from handler.runners.peak import measured_limits, taken
from handler.runners.slots import attention as slot_attention
from handler.runners.slots.runner import SlotRunner
from handler.sampling.grammar import GrammarCompiler
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.config import EngineConfig, KVLayout, Quantize
from handler.seam.errors import BadConfiguration
from handler.seam.protocol import GenerateRequest, Grammar, GrammarKind, SamplingParams
from handler.seam.status import StatusBoard
from handler.startup import build_core
from tests.support.local_engine import LocalEngine, limits, loaded
from tests.support.pretend_cuda import Gpus, gpus_of, pretend_cuda
from tests.support.tiny_models import EOS_ID, build, save

pytestmark = pytest.mark.usefixtures("one_thread")
MIB = 1 << 20
STEP = 512
# 50 MiB of activations in a step, 256 bytes of keys for each token.
WIDE = {"hidden_size": 32, "intermediate_size": 16384, "num_hidden_layers": 2, "max_position_embeddings": 1024}
CONFIG = EngineConfig(max_num_seqs=4, max_num_batched_tokens=STEP)


@pytest.fixture
def gpus() -> Iterator[Gpus]:
    with pretend_cuda(gpus_of("A10G", 2)) as found:
        yield found


@pytest.fixture
def board(tmp_path: Path) -> StatusBoard:
    return StatusBoard(tmp_path / "board", create=True)


def wide(spread: bool = False) -> LoadedModel:
    """With `spread`, one of three layers on the first GPU and two on the next."""
    if not spread:
        return loaded(build("llama", **WIDE).to("cuda", torch.bfloat16))
    model = build("llama", **WIDE | {"num_hidden_layers": 3}).to(torch.bfloat16)
    places = {"model.embed_tokens": "cuda:0", "model.rotary_emb": "cuda:0", "model.norm": "cuda:1", "lm_head": "cuda:1"}
    places |= {f"model.layers.{i}": f"cuda:{int(i > 0)}" for i in range(3)}
    found = loaded(dispatch_model(model, places, force_hooks=True))
    return dataclasses.replace(found, other_devices=(torch.device("cuda", 1),))


def leave(gpus: Gpus, num_bytes: int) -> None:
    """Each GPU has as much free memory."""
    torch.cuda.empty_cache()
    for gpu in gpus.all:
        gpu.total = gpu.allocated + num_bytes


def serve(runner: PagedRunner, directory: Path) -> None:
    """Two prompts longer than a step, beside each other."""
    engine = LocalEngine(runner, runner.limits, directory)
    outcomes = [engine.submit([(7 * i + j) % 250 for i in range(600)], max_tokens=2) for j in range(2)]
    engine.run()
    engine.close()
    assert [outcome.error for outcome in outcomes] == [None, None]


@pytest.mark.parametrize("spread", [False, True])
def test_long_prompts_run_where_a_fixed_share_runs_out(
    spread: bool, gpus: Gpus, board: StatusBoard, tmp_path: Path
) -> None:
    found = wide(spread)
    leave(gpus, 200 * MIB)
    runner, bounds = choose_runner(CONFIG, found, board)
    assert isinstance(runner, PagedRunner)
    assert bounds.max_num_batched_tokens == STEP
    serve(runner, tmp_path)
    del runner
    share = PagedRunner(found, derive_limits(CONFIG, found, paged=True))
    (tmp_path / "share").mkdir()
    with pytest.raises(AssertionError, match="out_of_memory"):
        serve(share, tmp_path / "share")


def test_keys_take_what_steps_leave_of_a_large_gpu(gpus: Gpus) -> None:
    found = wide()
    leave(gpus, 2048 * MIB)
    bounds = measured_limits(CONFIG, found, partial(paged_probe, found), paged=True)
    share = bounds.capacity_tokens * bytes_per_token(found) / (2048 * MIB)
    assert 0.9 < share < 0.97


@pytest.mark.parametrize(
    ("megabytes", "asked", "tokens"),
    [(200, {}, STEP), (80, {}, STEP // 2), (200, {"kv_capacity_tokens": 600_000}, STEP // 2)],
)
def test_steps_that_leave_no_room_for_keys_are_halved(
    megabytes: int, asked: dict[str, int], tokens: int, gpus: Gpus, caplog: pytest.LogCaptureFixture
) -> None:
    found = wide()
    leave(gpus, megabytes * MIB)
    config = msgspec.structs.replace(CONFIG, **asked)
    with caplog.at_level(logging.WARNING):
        bounds = measured_limits(config, found, partial(paged_probe, found), paged=True)
    assert bounds.max_num_batched_tokens == tokens
    assert bounds.capacity_tokens == asked.get("kv_capacity_tokens", bounds.capacity_tokens)
    sentence = f"steps of at most {tokens} tokens instead of {STEP} (MAX_BATCH_PREFILL_TOKENS)"
    assert (sentence in caplog.text) is (tokens < STEP)


def test_a_model_that_leaves_no_room_for_keys_is_refused(gpus: Gpus) -> None:
    found = wide()
    leave(gpus, 40 * MIB)
    config = msgspec.structs.replace(CONFIG, max_num_seqs=0)
    with pytest.raises(BadConfiguration, match="the weights leave too little GPU memory: steps of 256 tokens"):
        measured_limits(config, found, partial(paged_probe, found), paged=True)


@pytest.mark.parametrize(
    ("asked", "sequences"),
    [
        ({"kv_capacity_tokens": 2000}, 8),
        ({"kv_capacity_tokens": 46_836}, 88),
        ({"kv_capacity_tokens": 865_012}, 256),
        ({"kv_capacity_tokens": 8192, "max_model_len": 128}, 64),
        ({"kv_capacity_tokens": 865_012, "max_num_seqs": 5}, 5),
        ({"kv_capacity_tokens": 2000, "max_num_seqs": 300}, 300),
    ],
)
def test_as_many_sequences_run_as_memory_holds(asked: dict[str, int], sequences: int, gpus: Gpus) -> None:
    found = loaded(build("llama").to("cuda", torch.bfloat16))
    assert derive_limits(EngineConfig(**asked), found, paged=True).max_num_seqs == sequences
    on_cpu = loaded(build("llama"))
    assert derive_limits(EngineConfig(**asked), on_cpu).max_num_seqs == asked.get("max_num_seqs", 64)


@pytest.mark.parametrize(("asked", "num_seqs", "expected"), [(0, 256, 512), (0, 8, 128), (20, 256, 20)])
def test_the_queue_follows_the_sequences(asked: int, num_seqs: int, expected: int, tmp_path: Path) -> None:
    """A batch of 256 would never be full with TGI's default of 128 requests in flight. The card says the bound."""
    config = EngineConfig(socket_path=str(tmp_path / "socket"), max_waiting=asked)
    runner = PagedRunner(loaded(build("llama")), limits(max_num_seqs=num_seqs))
    core = build_core(config, runner, runner.limits, StatusBoard(tmp_path / "board", create=True))
    core.socket.close()
    card = startup._card(config, runner, runner.limits, "model", tmp_path, [])
    assert core.scheduler.limits.max_waiting == card.max_concurrent_requests == expected


def test_what_does_not_run_over_pages_is_measured_on_the_runner_that_serves_it(gpus: Gpus, board: StatusBoard) -> None:
    found = loaded(build("bloom").to("cuda", torch.bfloat16))
    leave(gpus, 400 * MIB)
    runner, bounds = choose_runner(msgspec.structs.replace(CONFIG, kv_layout=KVLayout.SLOTS), found, board)
    assert runner.name == "dynamic_cache"
    # Half is for padding.
    assert 0.9 < 2 * bounds.capacity_tokens * bytes_per_token(found) / (400 * MIB) < 0.98


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_prompts_over_slots_never_take_memory_by_their_square(
    family: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = loaded(build(family, max_position_embeddings=512, num_hidden_layers=2).to("cuda", torch.bfloat16))
    runner = SlotRunner(found, 1, 512)
    runner.prove()
    ids = [i % 250 for i in range(512)]

    def logits(length: int) -> torch.Tensor:
        request = GenerateRequest("r", ids[:length], SamplingParams(max_tokens=1, seed=0), 1.0)
        item = ScheduledSequence(Sequence(request, b"", 0.0, 1.0, slot=0), 0, length)
        return runner.run(ScheduledBatch([item])).logits.float().cpu()

    at_once = logits(512)
    monkeypatch.setattr(slot_attention, "MAX_BYTES", MIB)
    torch.testing.assert_close(logits(512), at_once, atol=0.05, rtol=0.05)
    short, long = (taken(found.devices, partial(logits, length))[found.device] for length in (256, 512))
    assert long < 2.2 * short


def test_no_request_is_the_first_to_use_a_kernel(gpus: Gpus, board: StatusBoard, tmp_path: Path) -> None:
    """CUDA loads each at its first use. A start on CPU has nothing to load, and runs one prompt only."""
    model = save("llama", tmp_path / "model", num_hidden_layers=2)
    config = EngineConfig(
        model=str(model), cache_dir=str(tmp_path), socket_path=str(tmp_path / "socket"),
        quantize=Quantize.NONE, kv_capacity_tokens=4096, max_model_len=256, max_num_seqs=4, max_num_batched_tokens=128,
    )  # fmt: skip
    core, _ = startup.start(config, board)
    core.socket.close()
    loaded_before = set(gpus.kernels)
    grammars = GrammarCompiler(model / "tokenizer.json", core.runner.vocab_size, {EOS_ID})
    engine = LocalEngine(core.runner, core.runner.limits, tmp_path, grammars=grammars)  # type: ignore[attr-defined]
    asked: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_k": 5, "num_logprobs": 5},
        {"temperature": 1.0, "top_p": 0.5, "min_p": 0.01, "warped_logprobs": True, "num_logprobs": 2},
        {"temperature": 1.0, "typical_p": 0.5, "watermark": (0.5, 2.0)},
        {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": 0.2},
        {"logit_bias": {5: -100.0}, "bad_words": ((1, 2),), "min_tokens": 3, "num_prompt_logprobs": 3},
        {"grammar": Grammar(GrammarKind.JSON_SCHEMA, "{}")},
    ]
    outcomes = [engine.submit([(7 * i) % 250 for i in range(20)], max_tokens=3, **each) for each in asked]
    engine.run()
    engine.close()
    assert [outcome.error for outcome in outcomes] == [None] * len(asked)
    assert sorted(set(gpus.kernels) - loaded_before) == []
