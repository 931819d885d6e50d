"""The CUDA path. Run it first on any machine that has a GPU: `pytest -m gpu tests/engine/test_gpu.py -rA`.

Without a GPU it runs on a pretended one (`tests/support/pretend_cuda`), which obeys CUDA's rules and computes on CPU.

The kernel takes bfloat16 and pages of 256 tokens only, so answers are compared by logits with a tolerance, and
exactly only between runs that must not differ in kind: with and without graphs, again from the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handler.model.loader import LoadedModel
from handler.runners.attention import LayerTraits
from handler.runners.choice import start_paged
from handler.runners.experts import use_static_experts
from handler.runners.limits import CUDA_PAGE_SIZE, derive_limits
from handler.runners.paged import attention as paged_attention
from handler.runners.paged import windows
from handler.runners.paged.input import PagedInput
from handler.runners.paged.runner import PagedRunner
from handler.runners.paged.step_buffers import Shape
from handler.runners.paged.sync_guard import host_sync
from handler.runners.paged.varlen import varlen_attention, varlen_attn_cpu
from handler.runners.paged.windows import WindowParts, window_attention, window_parts
from handler.runners.trial import Trial, Verdict, compare
from handler.scheduling.block_manager import TRASH_PAGE
from handler.seam.config import EngineConfig
from handler.seam.status import StatusBoard
from tests.support.local_engine import LocalEngine, limits, loaded
from tests.support.tiny_models import build, every_expert

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu", "one_thread")]

FAMILIES = [
    "llama",
    "qwen3",
    "mistral",
    "gemma3_text",
    "gpt2",
    "mixtral",
    "stablelm",
    "deepseek_v3",
    "gpt_oss",
    "cohere",
]
PROMPTS = [[(11 * i + 5) % 250 for i in range(n)] for n in (1, 7, 90, 250, 300)]


def on_gpu(family: str, **changes: Any) -> LoadedModel:
    found = loaded(build(family, **every_expert(family), **changes).to("cuda", torch.bfloat16))
    use_static_experts(found, max_num_seqs=16)
    return found


def runner_for(family: str, **changes: int) -> PagedRunner:
    sizes = {"max_model_len": 512, "capacity_tokens": 8192, "page_size": CUDA_PAGE_SIZE, "max_num_batched_tokens": 128}
    return PagedRunner(on_gpu(family), limits(**(sizes | changes)))


@pytest.mark.parametrize("window", [(-1, 0), (-1, -1), (7, 0)])
@pytest.mark.parametrize(("heads", "head_dim"), [((4, 4), 64), ((8, 2), 128), ((4, 1), 192), ((4, 2), 256)])
def test_the_kernel_says_what_the_emulator_says(window: tuple[int, int], heads: tuple[int, int], head_dim: int) -> None:
    """Garbage in every slot that is not a key of a sequence must not matter."""
    lengths = (
        [(1, 1), (1, 256), (1, 300), (1, 511)] if window == (-1, -1) else [(1, 300), (5, 5), (40, 290), (257, 513)]
    )
    pages = [-(-keys // CUDA_PAGE_SIZE) for _, keys in lengths]
    order = torch.randperm(sum(pages)).add(1).tolist()
    pool = [torch.full((sum(pages) + 1, CUDA_PAGE_SIZE, heads[1], head_dim), float("nan")) for _ in range(2)]
    table = torch.full((len(lengths), max(pages) + 1), TRASH_PAGE, dtype=torch.int32)
    for i, (_, keys) in enumerate(lengths):
        own, order = order[: pages[i]], order[pages[i] :]
        table[i, : pages[i]] = torch.tensor(own)
        for tensor in pool:
            for j, page in enumerate(own):
                filled = min(CUDA_PAGE_SIZE, keys - j * CUDA_PAGE_SIZE)
                tensor[page, :filled] = torch.randn(filled, heads[1], head_dim)
    queries, used = (torch.tensor(column) for column in zip(*lengths, strict=True))
    tensors = [
        torch.randn(int(queries.sum()), heads[0], head_dim),
        *pool,
        *(torch.cat([torch.zeros(1), column.cumsum(0)]).int() for column in (queries, used)),
    ]
    query, key, value, cu_q, cu_k = (
        t.to("cuda", torch.bfloat16) if t.is_floating_point() else t.cuda() for t in tensors
    )
    options: dict[str, Any] = {"scale": head_dim**-0.5, "window_size": window, "enable_gqa": heads[0] != heads[1]}
    options |= {"seqused_k": used.int().cuda(), "block_table": table.cuda()}
    bounds = (int(queries.max()), table.shape[1] * CUDA_PAGE_SIZE)
    found, logsumexp = varlen_attention(query, key, value, cu_q, cu_k, *bounds, **options)
    floats = (tensor.float() for tensor in (query, key, value))
    expected, expected_logsumexp = varlen_attn_cpu(*floats, cu_q, cu_k, *bounds, **options)
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(logsumexp, expected_logsumexp, atol=2e-2, rtol=2e-2)


def test_windows_in_parts_say_what_the_emulator_says() -> None:
    """Some parts of the windows have no key."""
    lengths, window = torch.tensor([1, 256, 300, 301, 511, 700], dtype=torch.int32), 300
    table = torch.randperm(18).add(1).view(6, 3).int()
    query, pool = torch.randn(6, 8, 128), torch.randn(2, 19, CUDA_PAGE_SIZE, 2, 128)
    rows, bounds = torch.arange(7).int(), (1, 3 * CUDA_PAGE_SIZE)
    options: dict[str, Any] = {"scale": 0.1, "enable_gqa": True, "seqused_k": lengths, "block_table": table}
    expected, _ = varlen_attn_cpu(query, *pool, rows, rows, *bounds, window_size=(window - 1, 0), **options)
    ids = torch.zeros(1, 6).long()
    step = PagedInput(ids, ids, ids[0], rows, rows, lengths, table, *bounds, None).on(torch.device("cuda"))
    keys, values = (each.to("cuda", torch.bfloat16) for each in pool)
    parts = window_parts(step, window, CUDA_PAGE_SIZE)
    found = window_attention(query.to("cuda", torch.bfloat16), keys, values, parts, LayerTraits(0.1, window))
    torch.testing.assert_close(found.float().cpu(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("wrong", [None, "starts", "lengths", "hidden"])
def test_parts_that_differ_from_the_kernel_s_window_are_not_taken(
    wrong: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one key, or by the weight of a part."""

    def off(given: PagedInput, window: int, page_size: int) -> WindowParts:
        parts = window_parts(given, window, page_size)
        if wrong is None:
            return parts
        changed = getattr(parts, wrong)
        return replace(parts, **{wrong: changed ^ True if wrong == "hidden" else (changed - 1).clamp(min=0)})

    monkeypatch.setattr(windows, "window_parts", off)
    assert windows.parts_agree(CUDA_PAGE_SIZE, torch.bfloat16, torch.device("cuda")) == (wrong is None)


@pytest.mark.parametrize("family", ["mistral", "gpt_oss"])
def test_graphs_hold_windows_in_parts(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as batches of large models have; the trial crosses the window, and its pages are not aligned with it."""
    taken: list[int] = []

    def recording(given: PagedInput, window: int, page_size: int) -> WindowParts:
        taken.append(window)
        return window_parts(given, window, page_size)

    monkeypatch.setattr(windows, "_WORTHWHILE", 0)
    monkeypatch.setattr(paged_attention, "window_parts", recording)
    bounds = limits(max_model_len=512, capacity_tokens=8192, page_size=CUDA_PAGE_SIZE, max_num_seqs=2)
    runner = PagedRunner(on_gpu(family, sliding_window=300), bounds)
    runner.prove()
    assert runner.graphs, runner.decoding
    assert set(taken) == {300}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trial_passes_with_graphs(family: str) -> None:
    """They say what decoding without them says, and the steps they hold never wait for the device."""
    runner = runner_for(family)
    runner.prove()
    assert runner.graphs, runner.decoding
    assert runner.verdict is Verdict.PASSED
    assert set(runner.graphs.shapes) == {*runner._decode_shapes, *runner._mixed_shapes}
    with torch.inference_mode():
        runner._buffers.fill(Shape(4), [], [])
        assert host_sync(lambda: runner.static_forward(Shape(4))) is None
    trial = Trial(runner.loaded, runner.limits)
    replayed = trial.play(runner).decode_rows
    runner.graphs.drop("for comparison")
    eager = trial.play(runner).decode_rows
    for index, rows in eager.items():
        one, other = (torch.stack([row for _, row in found]) for found in (rows, replayed[index]))
        assert compare(one, other, runner.loaded) is None


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3_text"])
def test_own_kernels_say_what_the_layers_say(family: str) -> None:
    """Every decoder layer and the last norm, each compared with what it replaces."""
    runner = runner_for(family)
    Trial(runner.loaded, runner.limits).prove(runner)
    runner.fusion.apply(runner.run)
    assert runner.fusion.num_fused == runner.loaded.text_config.num_hidden_layers
    assert type(runner.loaded.model.model.norm).__name__ == "FusedNorm"
    assert Trial(runner.loaded, runner.limits).difference(runner) is None


def test_after_a_capture_that_fails_decoding_goes_on_where_it_was(
    make_engine: Callable[[PagedRunner], LocalEngine],
) -> None:
    """The end of such a capture raises too, and torch leaves its stream current."""
    runner = runner_for("llama")
    waiting = runner.loaded.model.register_forward_hook(lambda *_: torch.cuda.synchronize())
    before = torch.cuda.current_stream()
    runner.prove()
    assert runner.decoding.startswith("no CUDA graphs (capture failed: ")
    assert runner.verdict is Verdict.FELL_BACK
    assert torch.cuda.current_stream() == before
    waiting.remove()
    engine = make_engine(runner)
    outcomes = [engine.submit(prompt, max_tokens=8) for prompt in PROMPTS[:2]]
    engine.run()
    assert [len(outcome.token_ids) for outcome in outcomes] == [8, 8]


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[[PagedRunner], LocalEngine]]:
    engines: list[LocalEngine] = []

    def make(runner: PagedRunner) -> LocalEngine:
        directory = tmp_path / str(len(engines))
        directory.mkdir()
        engines.append(LocalEngine(runner, runner.limits, directory))
        return engines[-1]

    yield make
    for engine in engines:
        engine.core.scheduler.check_integrity()
        engine.close()


@torch.no_grad()
def likely(model: Any, prompt: list[int], answer: list[int]) -> bool:
    """True if stock attention finds every token of the answer (nearly) the best; bfloat16 decides close calls."""
    model.set_attn_implementation("eager")
    ids = torch.tensor([prompt + answer], device="cuda")
    rows: Tensor = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    chosen = rows.gather(-1, torch.tensor(answer, device="cuda")[:, None])[:, 0]
    return bool((rows.amax(-1) - chosen <= 0.06 * rows.abs().amax(-1)).all())


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3"])
def test_an_engine_with_graphs_pressure_and_reuse(
    family: str, make_engine: Callable[[PagedRunner], LocalEngine]
) -> None:
    runner = runner_for(family, capacity_tokens=4 * CUDA_PAGE_SIZE)
    runner.prove()
    engine, replayed, replay = make_engine(runner), set(), runner.graphs.replay

    def recording(shape: Shape) -> Tensor:
        replayed.add(shape)
        return replay(shape)

    runner.graphs.replay = recording  # type: ignore[method-assign]
    for reuse in (False, True):
        outcomes = [engine.submit(prompt, max_tokens=40, reuse_prefix=reuse) for prompt in PROMPTS]
        engine.run()
    assert engine.core.scheduler.num_preemptions > 0
    assert any(shape.num_decodes and shape.num_chunk_tokens for shape in replayed), "prompts joined decodes"
    for _ in range(2):
        outcomes.append(engine.submit(PROMPTS[-1], max_tokens=40))
        engine.run()
    assert outcomes[-1].num_cached_tokens == CUDA_PAGE_SIZE
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    reference = on_gpu(family).model
    asked = [*PROMPTS, PROMPTS[-1], PROMPTS[-1]]
    assert all(likely(reference, ids, outcome.token_ids) for ids, outcome in zip(asked, outcomes, strict=True))


def test_a_start_on_cuda_takes_pages_and_one_that_cannot_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    board = StatusBoard(tmp_path / "board", create=True)
    config = EngineConfig(kv_capacity_tokens=4096, max_model_len=512)
    found = start_paged(config, on_gpu("llama"), board)
    assert found is not None
    assert found[1] == derive_limits(config, on_gpu("llama"), paged=True)
    assert board["self_test"] == Verdict.PASSED
    gathered = start_paged(config, on_gpu("gemma2"), board)
    assert gathered is not None
    assert board["self_test"] == Verdict.FELL_BACK
    refused = on_gpu("bloom")
    own_attention = refused.model.config._attn_implementation
    assert start_paged(config, refused, board) is None
    assert board["self_test"] == Verdict.FELL_BACK
    assert refused.model.config._attn_implementation == own_attention


def test_sampling_reads_logits_before_the_next_replay(make_engine: Callable[[PagedRunner], LocalEngine]) -> None:
    runner = runner_for("llama")
    runner.prove()
    engine = make_engine(runner)
    outcomes = [engine.submit(PROMPTS[1], max_tokens=20, temperature=1.0, seed=seed) for seed in (1, 2, 1)]
    engine.run()
    assert outcomes[0].token_ids == outcomes[2].token_ids != outcomes[1].token_ids
