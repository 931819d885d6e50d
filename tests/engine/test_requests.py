"""Per-request behaviour of the engine: seeds, limits, end-of-sequence, aborts, deadlines, refusals, poison."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq

from handler.seam.protocol import (
    ErrorCode,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    decode_from_engine,
    encode,
)
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine

MakeEngine = Callable[..., LocalEngine]
PROMPT = [5, 9, 17, 33, 41, 50, 7]
OTHERS = [[(i * 7 + j) % 250 for j in range(3 + 5 * i)] for i in range(5)]


def test_a_seed_fixes_the_answer_whoever_else_is_in_the_batch(make_engine: MakeEngine, llama: Any) -> None:
    sampled = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 20}
    engine = make_engine(llama)
    alone = engine.submit(PROMPT, seed=7, **sampled)
    engine.run()
    crowd = [engine.submit(prompt, seed=i, **sampled) for i, prompt in enumerate(OTHERS)]
    engine.step()
    again = engine.submit(PROMPT, seed=7, **sampled)
    other = engine.submit(PROMPT, seed=8, **sampled)
    engine.run()
    assert again.token_ids == alone.token_ids
    assert other.token_ids != alone.token_ids
    assert all(outcome.finish_reason is FinishReason.LENGTH for outcome in crowd)


def test_a_seed_survives_preemption(make_engine: MakeEngine) -> None:
    sampled = {"temperature": 1.0, "max_tokens": 60}
    roomy = make_engine(tiny_models.build("llama"))
    expected = [roomy.submit(prompt, seed=i, **sampled) for i, prompt in enumerate(OTHERS)]
    roomy.run()
    tight = make_engine(tiny_models.build("llama"), capacity_tokens=256)
    got = [tight.submit(prompt, seed=i, **sampled) for i, prompt in enumerate(OTHERS)]
    tight.run()
    assert tight.core.scheduler.num_preemptions > 0
    assert [o.token_ids for o in got] == [o.token_ids for o in expected]


def test_end_of_sequence_ends_and_can_be_ignored(make_engine: MakeEngine, llama: Any) -> None:
    probe = make_engine(llama)
    free = probe.submit(PROMPT, max_tokens=10)
    probe.run()
    eos = free.token_ids[4]
    assert eos not in free.token_ids[:4]
    engine = make_engine(llama, frozenset({eos}))
    ended = engine.submit(PROMPT, max_tokens=10)
    ignoring = engine.submit(PROMPT, max_tokens=10, ignore_eos=True)
    on_last = engine.submit(PROMPT, max_tokens=5)
    not_yet = engine.submit(PROMPT, max_tokens=10, min_tokens=6)
    engine.run()
    assert (ended.token_ids, ended.finish_reason) == (free.token_ids[:5], FinishReason.EOS)
    assert (ignoring.token_ids, ignoring.finish_reason) == (free.token_ids, FinishReason.LENGTH)
    assert on_last.finish_reason is FinishReason.EOS, "an answer that is complete is not cut"
    assert len(not_yet.token_ids) >= 6
    assert not_yet.token_ids[:4] == free.token_ids[:4]
    assert not_yet.token_ids[4] != eos


def test_stop_tokens_end(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama)
    free = engine.submit(PROMPT, max_tokens=10)
    engine.run()
    stopped = engine.submit(PROMPT, max_tokens=10, stop_token_ids=(free.token_ids[3],))
    engine.run()
    assert stopped.finish_reason is FinishReason.STOP_TOKEN
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(free.token_ids[3]) + 1]


def test_the_context_ends_an_answer(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama, max_model_len=32)
    outcome = engine.submit(PROMPT, max_tokens=100)
    engine.run()
    assert outcome.finish_reason is FinishReason.LENGTH
    assert len(PROMPT) + len(outcome.token_ids) == 32


def test_abort_frees_everything_at_any_time(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama, max_num_seqs=2)
    kept = engine.submit(PROMPT, max_tokens=12)
    running = engine.submit(OTHERS[1], max_tokens=50)
    waiting = engine.submit(OTHERS[2], max_tokens=50)
    for _ in range(3):
        engine.step()
    assert running.token_ids
    assert not waiting.token_ids
    engine.abort(running)
    engine.abort(waiting)
    for _ in range(20):
        engine.step()
    assert kept.finish_reason is FinishReason.LENGTH
    assert not running.done, "an abort is not answered"
    assert engine.core.scheduler.idle
    assert engine.core.scheduler.kv.used_tokens == 0
    assert engine.core.board["aborts"] == 2


def test_a_request_past_its_deadline_fails(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama)
    late = engine.submit(PROMPT, max_tokens=200, timeout_s=0.0)
    fine = engine.submit(PROMPT, max_tokens=5)
    engine.run()
    assert late.error is not None
    assert late.error.code is ErrorCode.DEADLINE
    assert fine.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("prompt", [[], [-1], [tiny_models.VOCAB_SIZE], [2**40], list(range(250)) * 2])
def test_impossible_prompts_are_rejected_and_harm_nobody(
    prompt: list[int], make_engine: MakeEngine, llama: Any
) -> None:
    engine = make_engine(llama)
    bad = engine.submit(prompt)
    good = engine.submit(PROMPT)
    engine.run()
    assert bad.error is not None
    assert bad.error.code is ErrorCode.INVALID
    assert len(good.token_ids) == 8


def test_the_queue_is_bounded(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama, max_waiting=3, max_num_seqs=1)
    outcomes = [engine.submit(PROMPT) for _ in range(8)]
    engine.run()
    refused = [o for o in outcomes if o.error is not None]
    assert refused
    assert all(o.error is not None and o.error.code is ErrorCode.OVERLOADED for o in refused)
    assert all(len(o.token_ids) == 8 for o in outcomes if o.error is None)


def test_one_poisoned_sequence_fails_alone(make_engine: MakeEngine) -> None:
    """A token whose embedding is NaN poisons the sequence that holds it, and nobody else, now or later."""
    poison = 77
    model = tiny_models.build("llama")
    model.get_input_embeddings().weight.data[poison] = float("nan")
    engine = make_engine(model)
    expected = []
    for prompt in OTHERS:
        expected.append(engine.submit(prompt, max_tokens=10))
        engine.run()
    outcomes = [engine.submit(prompt, max_tokens=10) for prompt in OTHERS]
    poisoned = engine.submit([5, poison, 6, 9, 10, 11], max_tokens=10)
    engine.run()
    assert poisoned.error is not None
    assert poisoned.error.code is ErrorCode.NUMERICS
    assert [o.token_ids for o in outcomes] == [o.token_ids for o in expected]
    reusing = [engine.submit(prompt, max_tokens=10) for prompt in (*OTHERS, OTHERS[0], OTHERS[1])]
    engine.run()
    assert [o.token_ids for o in reusing[:5]] == [o.token_ids for o in expected], "the poisoned slot is clean again"


def num_dropped(caplog: pytest.LogCaptureFixture) -> int:
    return sum("dropped a frame" in record.getMessage() for record in caplog.records)


def test_garbage_on_the_socket_changes_nothing(
    make_engine: MakeEngine, llama: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(llama)
    for frame in (b"", b"\xc1", b"\x93\x01\x02\x03", b"\x91\x92\xa5abort", bytes(range(256)) * 40):
        engine._socket.send(frame)
    engine._socket.send_multipart([b"a", b"b", b"c"])
    outcome = engine.submit(PROMPT, max_tokens=4)
    engine.run()
    assert len(outcome.token_ids) == 4
    assert num_dropped(caplog) == 6


def test_a_flood_of_frames_does_not_stop_the_steps(
    make_engine: MakeEngine, llama: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Frames that come as fast as they are read must not keep the engine reading."""
    engine = make_engine(llama)
    receiving, real = engine.core.socket, engine.core.socket._socket

    class Flooded:
        """The socket, with a bad frame more for every one that is read."""

        num_read = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def poll(self, _timeout_ms: int) -> int:
            return 1

        def recv_multipart(self, _flags: int) -> list[bytes]:
            self.num_read += 1
            assert self.num_read <= 10_000, "it reads without end"
            return [b"worker", b"\xc1"]

    monkeypatch.setattr(receiving, "_socket", Flooded())
    assert list(receiving.receive(0.0)) == []
    assert num_dropped(caplog) > 0


def test_requests_of_a_lost_worker_end(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama)
    engine.submit(PROMPT, max_tokens=200)
    for _ in range(3):
        engine.step()
    engine._socket.close()
    for _ in range(190):  # not enough for an answer
        engine.core.step()
        if engine.core.scheduler.idle:
            break
        time.sleep(0.05)
    assert engine.core.scheduler.idle
    assert engine.core.scheduler.kv.used_tokens == 0


def test_a_worker_that_is_gone_is_missed_before_its_requests_run(make_engine: MakeEngine, llama: Any) -> None:
    """All it has here waits behind a request of another worker, so no token is ever sent to it."""
    engine = make_engine(llama, max_num_seqs=1)
    kept = engine.submit(PROMPT, max_tokens=200)
    engine.step()
    gone = engine._context.socket(zmq.DEALER)
    gone.setsockopt(zmq.LINGER, 0)
    gone.connect(f"ipc://{engine.core.socket._path}")
    lost = GenerateRequest("lost", PROMPT, SamplingParams(max_tokens=5, seed=0), 600.0)
    engine.expect(lost)
    gone.send(encode([lost]))
    engine.step()
    assert "lost" in engine.core._sequences
    gone.close()
    engine.core._ping_due_s = 0.0
    deadline = time.monotonic() + 30
    while "lost" in engine.core._sequences:
        assert time.monotonic() < deadline
        assert not kept.done
        engine.core._ping_due_s = 0.0
        time.sleep(0.01)
        engine.core._ping_workers()
        engine.core._publish()
    assert not engine.core.scheduler.waiting
    engine.run()
    assert len(kept.token_ids) == 200


def test_a_deleted_socket_is_bound_again(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama)
    path = Path(engine.core.socket._path)
    path.unlink()
    engine.core._ping_due_s = 0.0
    engine.step()
    assert path.is_socket()
    late = engine._context.socket(zmq.DEALER)
    late.setsockopt(zmq.LINGER, 0)
    late.connect(f"ipc://{path}")
    request = GenerateRequest("late", PROMPT, SamplingParams(max_tokens=1, seed=0), 600.0)
    engine.expect(request)
    late.send(encode([request]))
    early = engine.submit(PROMPT, max_tokens=3)
    engine.run()
    assert len(early.token_ids) == 3, "who was connected stays connected"
    assert late.poll(60_000)
    assert decode_from_engine(late.recv())[0].request_id == "late"
    late.close()


def test_a_model_with_another_attention_is_refused() -> None:
    """Alibi models never call the engine's attention; serving them would be silently wrong."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from handler.runners.slots.runner import SlotRunner
    from handler.seam.errors import UnsupportedModel
    from tests.support.local_engine import loaded

    config = AutoConfig.for_model("bloom", vocab_size=128, hidden_size=64, n_layer=3, n_head=4)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with pytest.raises(UnsupportedModel, match="bloom"):
        SlotRunner(loaded(model), 2, 64).prove()


def test_logprobs_are_those_of_the_model(make_engine: MakeEngine, llama: Any) -> None:
    engine = make_engine(llama)
    outcome = engine.submit(PROMPT, max_tokens=6, num_logprobs=3)
    engine.run()
    with torch.no_grad():
        full = torch.tensor([PROMPT + outcome.token_ids])
        reference = tiny_models.build("llama")
        expected = reference(full, use_cache=False).logits[0].log_softmax(-1)[len(PROMPT) - 1 : -1]
    assert len(outcome.logprobs) == 6
    for row, token_id, found in zip(expected, outcome.token_ids, outcome.logprobs, strict=True):
        assert found.logprob == pytest.approx(float(row[token_id]), abs=1e-4)
        assert [i for i, _ in found.top] == row.topk(3).indices.tolist()
        assert [v for _, v in found.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
