"""The paged engine on CPU: CUDA's path through everything but its kernel and its graphs.

Memory is hostile in every test here: before each step the trash page and every free page are overwritten with NaN,
so whatever reads a key that is not its own fails loudly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handler.runners.attention import LayerTraits
from handler.runners.choice import start_paged
from handler.runners.limits import bytes_per_token
from handler.runners.masked_attention import masked_attention
from handler.runners.paged import attention as paged_attention
from handler.runners.paged import gathered
from handler.runners.paged.decode_graphs import DecodeGraphs, StaticStep
from handler.runners.paged.runner import PagedRunner
from handler.runners.paged.step_buffers import Shape
from handler.runners.paged.sync_guard import SyncGuard, host_sync
from handler.runners.trial import Verdict, compare
from handler.scheduling.block_manager import TRASH_PAGE, BlockManager
from handler.scheduling.scheduler import ScheduledBatch
from handler.seam.config import EngineConfig, KVLayout
from handler.seam.errors import UnsupportedModel
from handler.seam.protocol import ErrorCode
from handler.seam.status import StatusBoard
from tests.support.local_engine import LocalEngine, limits, loaded
from tests.support.stock import greedy
from tests.support.tiny_models import build

pytestmark = pytest.mark.usefixtures("one_thread")

MakePaged = Callable[..., LocalEngine]
PAGE = 16
PROMPTS = [
    [5, 9, 17, 33, 41, 50, 7],
    [100],
    [(11 * i + 5) % 250 for i in range(90)],
    [(7 * i + 2) % 250 for i in range(33)],
    [(3 * i + 1) % 250 for i in range(64)],
]
NUM_TOKENS = 12
FAMILIES = ["llama", "qwen3", "gemma3_text", "gpt2", "mixtral", "stablelm", "deepseek_v3", "gpt_oss"]
# Softcapped scores, which torch's kernel does not compute.
GATHERED = "gemma2"


class HostileRunner(PagedRunner):
    """Fills memory that nobody may read with NaN before each step."""

    kv: BlockManager | None = None
    sizes: list[int]

    def kv_manager(self, limits: Any) -> BlockManager:
        self.kv = super().kv_manager(limits)
        self.sizes = []
        return self.kv

    def run(self, batch: ScheduledBatch) -> Any:
        if self.kv is not None:
            unused = [TRASH_PAGE, *self.kv.pool._free]
            with torch.inference_mode():
                for keys, values in self.cache._layers.values():
                    keys[unused] = values[unused] = float("nan")
            self.sizes.append(len(batch.items))
        return super().run(batch)


@pytest.fixture
def make_paged(tmp_path: Path) -> Iterator[MakePaged]:
    engines: list[LocalEngine] = []

    def make(model: Any, graphs: DecodeGraphs | None = None, **changes: int) -> LocalEngine:
        directory = tmp_path / str(len(engines))
        directory.mkdir()
        bounds = limits(**({"page_size": PAGE} | changes))
        runner = HostileRunner(loaded(model), bounds)
        if graphs is not None:
            runner.graphs = graphs
        runner.prove()
        engines.append(LocalEngine(runner, bounds, directory))
        return engines[-1]

    yield make
    for engine in engines:
        engine.core.scheduler.check_integrity()
        engine.close()


def ask(engine: LocalEngine, prompts: list[list[int]], num_tokens: int = NUM_TOKENS, **options: Any) -> list[list[int]]:
    outcomes = [engine.submit(prompt, max_tokens=num_tokens, **options) for prompt in prompts]
    engine.run()
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    return [outcome.token_ids for outcome in outcomes]


def ask_each(
    engine: LocalEngine, prompts: list[list[int]], num_tokens: int = NUM_TOKENS, **options: Any
) -> list[list[int]]:
    return [ask(engine, [prompt], num_tokens, **options)[0] for prompt in prompts]


def kv_of(engine: LocalEngine) -> BlockManager:
    assert isinstance(engine.core.scheduler.kv, BlockManager)
    return engine.core.scheduler.kv


@pytest.mark.parametrize("family", [*FAMILIES, GATHERED])
def test_alone_batched_joining_and_again_from_the_cache(family: str, make_paged: MakePaged) -> None:
    stock = build(family)
    expected = [greedy(stock, prompt, NUM_TOKENS) for prompt in PROMPTS]
    assert len({tuple(tokens) for tokens in expected}) > 3, "the model must not say the same whatever it is asked"
    engine = make_paged(build(family))
    cache = engine.core.runner.cache  # type: ignore[attr-defined]
    taken = sum(each[0, 0].nbytes for layer in cache._layers.values() for each in layer)
    # A page's heads are a multiple of 8 wide.
    assert taken <= bytes_per_token(engine.core.runner.loaded) * (4 / 3 if family == "deepseek_v3" else 1)
    assert ask_each(engine, PROMPTS, reuse_prefix=False) == expected
    assert kv_of(engine).prefix_hit_tokens == 0
    assert ask(engine, PROMPTS) == expected

    joining = []
    for prompt in PROMPTS:
        joining.append(engine.submit(prompt, max_tokens=NUM_TOKENS))
        engine.step()
        engine.step()
    assert joining[0].token_ids, "the first must be under way when the last one joins"
    assert not joining[0].done
    engine.run()
    assert [outcome.token_ids for outcome in joining] == expected
    assert [outcome.num_cached_tokens for outcome in joining] == [0, 0, 80, 32, 48]
    assert kv_of(engine).prefix_hit_tokens == engine.core.board["prefix_hit_tokens"] == 160


@pytest.mark.parametrize("budget", [1, 5, 16, 200])
def test_prompt_chunks_of_any_size_change_nothing(budget: int, make_paged: MakePaged, llama: Any) -> None:
    prompts = [prompt[:40] for prompt in PROMPTS]
    expected = [greedy(llama, prompt, 6) for prompt in prompts]
    engine = make_paged(build("llama"), max_num_batched_tokens=budget)
    assert ask(engine, prompts, 6) == expected
    assert ask(engine, prompts, 6) == expected


def test_preemption_and_eviction_are_invisible(make_paged: MakePaged, llama: Any) -> None:
    expected = [greedy(llama, prompt, 60) for prompt in PROMPTS]
    engine = make_paged(build("llama"), capacity_tokens=256, max_model_len=256)
    for _ in range(2):
        assert ask(engine, PROMPTS, 60) == expected
    assert engine.core.scheduler.num_preemptions > 0, "memory must have been short for this test to mean anything"
    assert kv_of(engine).prefix_hit_tokens > 0


def test_prompts_that_share_a_beginning(make_paged: MakePaged, llama: Any) -> None:
    system = [(7 * i + 3) % 250 for i in range(50)]
    prompts = [[*system, i, i + 1] for i in range(4)] + [system[:20], system, system[:48], [*system, *[5] * 40]]
    expected = [greedy(llama, prompt, NUM_TOKENS) for prompt in prompts]
    engine = make_paged(build("llama"), max_num_batched_tokens=512)
    assert ask(engine, prompts) == expected, "all at once: equal pages are merged while they run"
    assert ask(engine, prompts) == expected
    assert ask_each(engine, prompts, cache_salt="another tenant") == expected
    assert kv_of(engine).prefix_hit_tokens > 250


def test_a_conversation_goes_on_from_what_was_generated(make_paged: MakePaged, llama: Any) -> None:
    engine = make_paged(build("llama"))
    ids = list(PROMPTS[3])
    for turn in range(4):
        outcome = engine.submit(ids, max_tokens=15)
        engine.run()
        assert outcome.token_ids == greedy(llama, ids, 15)
        assert (outcome.num_cached_tokens > 0) == (turn > 0)
        ids += [*outcome.token_ids, turn, turn + 1]


def test_every_batch_size_on_the_way_up_and_down(make_paged: MakePaged, llama: Any) -> None:
    """Sequences leave one by one, from anywhere in the batch, so that rows of the static buffers hold stale data."""
    prompts = [[(i * 13 + j) % 250 for j in range(5 + i)] for i in range(13)]
    lengths = [3 + (7 * i) % 13 for i in range(13)]
    engine = make_paged(build("llama"), max_num_seqs=13, max_num_batched_tokens=512)
    outcomes = []
    for prompt, length in zip(prompts, lengths, strict=True):
        outcomes.append(engine.submit(prompt, max_tokens=length))
        if len(outcomes) % 3 == 0:
            engine.step()
    engine.run()
    expected = [greedy(llama, prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
    assert [outcome.token_ids for outcome in outcomes] == expected
    assert len(set(engine.core.runner.sizes)) > 8  # type: ignore[attr-defined]


def test_one_poisoned_sequence_fails_alone_and_leaves_nothing_behind(make_paged: MakePaged) -> None:
    """A token whose embedding is NaN poisons its own sequence, not those that share its beginning, now or later."""
    model = build("llama")
    system = [(5 * i + 1) % 60 for i in range(40)]
    prompts = [[*system, 3, i] for i in range(4)] + [PROMPTS[0], PROMPTS[4][:20]]
    expected = [greedy(model, prompt, NUM_TOKENS) for prompt in prompts]
    poison = min(set(range(60, 250)) - {i for tokens in (*prompts, *expected) for i in tokens})
    model.get_input_embeddings().weight.data[poison] = float("nan")
    engine = make_paged(model)
    for _ in range(2):
        outcomes = [engine.submit(prompt, max_tokens=NUM_TOKENS) for prompt in prompts]
        poisoned = engine.submit([*system, *[9] * 20, poison, *[6] * 30], max_tokens=NUM_TOKENS)
        engine.run()
        assert poisoned.error is not None
        assert poisoned.error.code is ErrorCode.NUMERICS
        assert [outcome.token_ids for outcome in outcomes] == expected
    assert ask_each(engine, prompts) == expected
    assert kv_of(engine).pool.index.match([*system, *[9] * 20]) == kv_of(engine).pool.index.match(system), (
        "nothing of it is left"
    )


class Recording:
    """What a graph is to its user, without CUDA: `replay` computes from the same buffers into the same logits."""

    def __init__(self, forward: Callable[[], Tensor], logits: Tensor, factor: float) -> None:
        self._forward, self._logits, self._factor = forward, logits, factor

    @torch.inference_mode()
    def replay(self) -> None:
        self._logits.copy_(self._forward() * self._factor)


class RecordedGraphs(DecodeGraphs):
    """Decodes and steps that mix, of which some shapes may be `wrong`."""

    wrong: tuple[Shape, ...] = ()
    factor = 1.0

    def capture(
        self, step: StaticStep, decodes: Sequence[Shape], mixed: Sequence[Shape], ropes: Any, device: Any
    ) -> None:
        self.drop("")
        shapes = [*decodes, *mixed]
        self.memory.num_rows = max(shape.num_seqs for shape in shapes)
        for shape in shapes:
            self._capture(step, shape, device)

    def _captured(self, step: StaticStep, shape: Shape, out: Tensor, device: Any) -> Recording:
        return Recording(lambda: step.forward(shape), out, 1.1 if shape in self.wrong else self.factor)

    @contextmanager
    def _side_stream(self, device: Any) -> Iterator[None]:
        yield


def test_replay_goes_through_the_static_buffers(make_paged: MakePaged, llama: Any) -> None:
    expected = [greedy(llama, prompt, NUM_TOKENS) for prompt in PROMPTS]
    engine = make_paged(build("llama"), RecordedGraphs())
    assert engine.core.runner.graphs  # type: ignore[attr-defined]
    assert ask(engine, PROMPTS) == expected
    assert ask_each(engine, PROMPTS) == expected


class CountedGraphs(RecordedGraphs):
    def __init__(self) -> None:
        super().__init__()
        self.replayed: list[Shape] = []

    def replay(self, shape: Shape) -> Tensor:
        self.replayed.append(shape)
        return super().replay(shape)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_decodes_replay_a_graph_beside_prompt_chunks(family: str, make_paged: MakePaged) -> None:
    """Prompts join one by one while others decode, each in chunks; a prompt that is scored runs without a graph."""
    model, graphs = build(family), CountedGraphs()
    prompts = [*PROMPTS, *([i, *PROMPTS[3]] for i in range(3))]
    expected = [greedy(model, prompt, NUM_TOKENS) for prompt in prompts]
    engine = make_paged(build(family), graphs, max_num_batched_tokens=20, max_num_seqs=6)
    for scored in (False, True):
        graphs.replayed.clear()
        outcomes = []
        for i, prompt in enumerate(prompts):
            options = {"num_prompt_logprobs": 0} if scored and i == 3 else {}
            outcomes.append(engine.submit(prompt, max_tokens=NUM_TOKENS, reuse_prefix=False, **options))
            engine.step()
        engine.run()
        assert [outcome.token_ids for outcome in outcomes] == expected
        assert {shape.num_chunk_tokens for shape in graphs.replayed} == {0, 64}
        assert any(shape.num_decodes and shape.num_chunk_tokens for shape in graphs.replayed)
        assert len(outcomes[3].prompt_logprobs) == (len(prompts[3]) - 1) * scored


def test_a_shape_whose_graph_is_wrong_has_none(make_paged: MakePaged, llama: Any) -> None:
    """Each is compared, not only those that the trial's script reaches; larger ones serve in its place."""
    expected = [greedy(llama, prompt, NUM_TOKENS) for prompt in PROMPTS]
    graphs = CountedGraphs()
    graphs.wrong = (Shape(4), Shape(8), Shape(0, 64))
    engine = make_paged(build("llama"), graphs, max_num_seqs=16, max_num_batched_tokens=60)
    assert set(graphs.wrong).isdisjoint(graphs.shapes)
    assert {Shape(1), Shape(16), Shape(8, 64), Shape(16, 64)} <= set(graphs.shapes)
    assert ask(engine, PROMPTS) == expected
    assert Shape(16) in graphs.replayed


def test_graphs_that_say_something_else_are_dropped(llama: Any) -> None:
    runner = PagedRunner(loaded(llama), limits(page_size=PAGE))
    runner.graphs = RecordedGraphs()
    runner.graphs.factor = 1.1
    runner.prove()
    assert not runner.graphs
    assert "decoding by them is wrong: off by 0.1" in runner.decoding


def test_without_cuda_decoding_is_eager_and_says_why(llama: Any) -> None:
    runner = PagedRunner(loaded(llama), limits(page_size=PAGE))
    runner.prove()
    assert runner.verdict is Verdict.PASSED
    assert runner.decoding == "no CUDA graphs (the device is cpu)"


@pytest.mark.parametrize("family", [*FAMILIES, "qwen3_moe", "phi3", "gpt_neox", "mistral", "cohere", "glm4"])
def test_the_decode_step_never_waits_for_the_device(family: str) -> None:
    runner = PagedRunner(loaded(build(family)), limits(page_size=PAGE))
    runner.prove()
    with torch.inference_mode():
        for shape in (Shape(1), Shape(8), Shape(8, 64)):
            runner._buffers.fill(shape, [], [])
            assert host_sync(lambda shape=shape: runner.static_forward(shape)) is None


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.clone().index_put_((x > 0,), torch.tensor(1.0)),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave(torch.tensor([1, 2, 3])),
        lambda x: torch.equal(x, x),
    ],
)
def test_the_guard_sees_what_a_graph_cannot_hold(operation: Callable[[Tensor], object]) -> None:
    assert host_sync(lambda: operation(torch.ones(3))) is not None


def test_the_guard_sees_experts_that_are_looked_up_on_the_host() -> None:
    runner = PagedRunner(loaded(build("mixtral")), limits(page_size=PAGE))
    runner.prove()
    runner.loaded.model.set_experts_implementation("eager")
    with torch.inference_mode():
        runner._buffers.fill(Shape(4), [], [])
        assert host_sync(lambda: runner.static_forward(Shape(4))) is not None


def test_the_guard_lets_pass_what_a_graph_holds() -> None:
    with SyncGuard():
        x = torch.ones(3)
        assert x[torch.tensor([0, 2])].shape == (2,)
        assert torch.where(x > 0, x, -x).shape == (3,)
        assert x.repeat_interleave(2).shape == (6,)


@pytest.mark.parametrize("most", [1, 3000, gathered._MAX_BYTES])
@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "mistral"])
def test_gathered_pages_say_what_the_model_says(
    family: str, most: int, make_paged: MakePaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts of any size; no part of a page that belongs to nobody is read."""
    monkeypatch.setattr(gathered, "_MAX_BYTES", most)
    monkeypatch.setattr(paged_attention, "takes_head", lambda *_: False)
    stock = build(family)
    prompts = [prompt[:40] for prompt in PROMPTS]
    engine = make_paged(build(family), max_num_batched_tokens=16)
    assert ask(engine, prompts) == [greedy(stock, prompt, NUM_TOKENS) for prompt in prompts]
    assert "gathered pages" in engine.core.runner.decoding  # type: ignore[attr-defined]


def test_a_first_pass_of_decodes_shows_that_pages_are_gathered() -> None:
    """Where sequences are so short that the trial begins with one token."""
    runner = PagedRunner(loaded(build("gemma2")), limits(page_size=PAGE, max_model_len=4))
    runner.prove()
    assert runner._gathers


def test_scores_that_overflow_before_they_are_scaled() -> None:
    """Scaled, they are within float16, which a T4 computes in."""
    size = 256
    q, k, v = torch.full((1, 1, 1, size), 20.0), torch.full((1, 1, 2, size), 20.0), torch.zeros(1, 1, 2, size)
    k[:, :, 1], v[:, :, 1] = 19.0, 1.0
    traits = LayerTraits(size**-0.5, softcap=1e5)
    found = masked_attention(q.half(), k.half(), v.half(), torch.zeros(1, 1, 2).bool(), traits)
    assert not found.any()


def test_no_part_of_gathered_pages_exceeds_the_bound() -> None:
    """Neither its scores nor the keys that it copies for several sequences; every row is in one part."""
    lengths = ((1, 700), (1, 90), (1, 2000), (40, 1000), (1, 1), (3, 3), (1, 400), (1, 400))
    most, page = 1 << 18, 16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathered, "_MAX_BYTES", most)
        for key_bytes, score_bytes in ((4096, 96), (64, 768)):
            parts = list(gathered._parts(lengths, 0, page, key_bytes, score_bytes))
            assert [row for part in parts for row in range(part.rows.start, part.rows.stop)] == list(
                range(sum(queries for queries, _ in lengths))
            )
            for part in parts:
                rows = part.num_rows * part.num_seqs
                assert rows == 1 or rows * part.end_key * score_bytes <= most
                assert part.num_seqs == 1 or part.num_seqs * part.end_key * key_bytes <= most


def test_a_model_with_another_attention_is_refused() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("bloom", vocab_size=128, hidden_size=64, n_layer=3, n_head=4)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with pytest.raises(UnsupportedModel, match="bloom"):
        PagedRunner(loaded(model), limits(page_size=PAGE)).prove()


def test_the_trial_notices_windows_that_are_not_kept() -> None:
    runner = PagedRunner(loaded(build("gemma3_text")), limits(page_size=PAGE))
    runner._windows = dict.fromkeys(runner._windows, 0)
    with pytest.raises(UnsupportedModel, match="differ from eager attention: sequence 0"):
        runner.prove()


@pytest.mark.parametrize(
    ("family", "dtype", "wrong_rows", "passes"),
    [
        ("llama", torch.bfloat16, 0, True),
        ("llama", torch.bfloat16, 1, False),
        ("mixtral", torch.float32, 1, False),
        ("mixtral", torch.bfloat16, 2, True),
        ("mixtral", torch.bfloat16, 3, False),
    ],
)
def test_a_close_call_of_a_router_is_not_taken_for_wrong_attention(
    family: str, dtype: torch.dtype, wrong_rows: int, passes: bool
) -> None:
    model = replace(loaded(build(family)), dtype=dtype)
    expected = torch.randn(5, 20)
    got = expected.clone()
    got[5 - wrong_rows :] += 1.0
    assert (compare(expected, got, model) is None) == passes
    got[0, 0] = float("nan")
    assert compare(expected, got, model) is not None


@pytest.mark.parametrize(
    "changes", [{"capacity_tokens": 16, "max_model_len": 16}, {"max_num_seqs": 2}, {"page_size": 256}]
)
def test_the_trial_fits_into_little_memory(changes: dict[str, int], llama: Any) -> None:
    runner = PagedRunner(loaded(llama), limits(**({"page_size": PAGE} | changes)))
    runner.prove()
    assert runner.verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("layout", "family", "verdict"),
    [
        (KVLayout.AUTO, "llama", Verdict.NOT_RUN),
        (KVLayout.SLOTS, "llama", Verdict.NOT_RUN),
        (KVLayout.PAGED, "llama", Verdict.PASSED),
    ],
)
def test_the_layout_on_cpu(layout: KVLayout, family: str, verdict: Verdict, tmp_path: Path) -> None:
    board = StatusBoard(tmp_path / "board", create=True)
    config = EngineConfig(kv_layout=layout, kv_capacity_tokens=1024, max_model_len=128)
    found = start_paged(config, loaded(build(family)), board)
    assert (found is not None) == (layout is KVLayout.PAGED)
    assert board["self_test"] == verdict
    if found is not None:
        assert isinstance(found[0].kv_manager(found[1]), BlockManager)


def test_pages_that_were_asked_for_and_fail_stop_the_start(tmp_path: Path) -> None:
    board = StatusBoard(tmp_path / "board", create=True)
    config = EngineConfig(kv_layout=KVLayout.PAGED, kv_capacity_tokens=1024, max_model_len=128)
    found = loaded(build("bloom"))
    own_attention = found.model.config._attn_implementation
    with pytest.raises(UnsupportedModel, match="bloom"):
        start_paged(config, found, board)
    assert board["self_test"] == Verdict.FELL_BACK
    assert found.model.config._attn_implementation == own_attention


def test_graphs_that_cannot_be_captured_are_done_without(
    llama: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the capture raises (here that there is no CUDA), the reason is logged and the answers are the same."""
    expected = [greedy(llama, prompt, NUM_TOKENS) for prompt in PROMPTS[:2]]
    runner = PagedRunner(loaded(build("llama")), limits(page_size=PAGE))
    monkeypatch.setattr("handler.runners.paged.decode_graphs.obstacle", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    runner.prove()
    assert not runner.graphs
    assert runner.decoding.startswith("no CUDA graphs (capture failed: ")
    assert runner.verdict is Verdict.PASSED
    engine = LocalEngine(runner, runner.limits, tmp_path)
    assert ask(engine, PROMPTS[:2]) == expected
    engine.close()
