"""What a start does on the GPUs that SageMaker rents, shown on pretended ones."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch import nn

from handler.model.device import choose_dtype
from handler.model.loader import LoadedModel
from handler.runners import experts
from handler.runners.choice import choose_runner
from handler.runners.limits import bytes_per_token, derive_limits, layer_shares
from handler.runners.paged.runner import PagedRunner
from handler.runners.paged.step_buffers import Shape
from handler.sampling import prompt_scores
from handler.sampling.prompt_scores import score_prompt
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.config import EngineConfig, KVLayout
from handler.seam.protocol import GenerateRequest, SamplingParams
from handler.seam.status import StatusBoard
from handler.startup import start
from tests.support.local_engine import limits, loaded
from tests.support.pretend_cuda import GIB, GPU_KINDS, Gpus, gpus_of, pretend_cuda
from tests.support.pretend_cuda.graphs import graph
from tests.support.tiny_models import build, every_expert, save

pytestmark = pytest.mark.usefixtures("one_thread")
GRAPHS = "decoding by CUDA graphs"
GATHERED = "attention over gathered pages, no CUDA graphs (the paged attention kernel "


@pytest.fixture
def two_gpus() -> Iterator[Gpus]:
    with pretend_cuda(gpus_of("A10G", 2)) as gpus:
        yield gpus


def config_of(model: Path, **changes: Any) -> EngineConfig:
    """Serve `model`, with its socket and its cache beside it."""
    return EngineConfig(
        model=str(model),
        cache_dir=str(model.parent),
        socket_path=str(model.parent / "socket"),
        num_threads=1,
        **changes,
    )


@pytest.mark.parametrize(
    ("kind", "count", "family", "dtype", "decoding"),
    [
        ("T4", 1, "llama", "float16", GATHERED + "takes compute capability 8.0 or more)"),
        ("T4", 4, "gpt_oss", "float16", GATHERED + "takes compute capability 8.0 or more)"),
        ("A10G", 4, "llama", "bfloat16", GRAPHS),
        ("A10G", 1, "gemma2", "bfloat16", GATHERED + "does not compute every layer)"),
        ("L4", 1, "qwen3_moe", "bfloat16", GRAPHS),
        ("A100", 4, "cohere", "bfloat16", GRAPHS),
        ("H100", 1, "mixtral", "bfloat16", GRAPHS),
    ],
)
def test_a_start(kind: str, count: int, family: str, dtype: str, decoding: str, tmp_path: Path) -> None:
    """Whole, from files to a first token."""
    board = StatusBoard(tmp_path / "board", create=True)
    directory = save(family, tmp_path / "model", **every_expert(family))
    with pretend_cuda(gpus_of(kind, count)) as gpus:
        core, card = start(config_of(directory, kv_capacity_tokens=4096, max_model_len=256, max_num_seqs=2), board)
        core.socket.close()
        assert (card.dtype, card.device, card.runner) == (dtype, "cuda:0", "paged")
        assert board["engines_wanted"] == count
        assert isinstance(core.runner, PagedRunner)
        assert core.runner.decoding == decoding
        assert gpus.contexts == {0}, "a context on a neighbour's GPU takes hundreds of MB there"


SERVE = """
import json, sys
from importlib.util import find_spec
from pathlib import Path
from handler.seam.config import EngineConfig
from handler.seam.status import StatusBoard
from handler.startup import start
from tests.support.local_engine import LocalEngine
from tests.support.pretend_cuda import gpus_of, pretend_cuda

folder = Path(sys.argv[1])
config = EngineConfig(model=str(folder / "model"), cache_dir=str(folder), socket_path=str(folder / "socket"),
                      kv_capacity_tokens=4096, max_model_len=256, max_num_seqs=2, num_threads=1)
with pretend_cuda(gpus_of("H200")):
    core, card = start(config, StatusBoard(folder / "first-board", create=True))
    core.socket.close()
    engine = LocalEngine(core.runner, core.runner.limits, folder)
    asked = [{"temperature": 0.0}, {"top_p": 0.9, "temperature": 1.0, "frequency_penalty": 0.5, "num_logprobs": 1}]
    answers = [engine.submit([5, 6, 7], max_tokens=4, ignore_eos=True, **each) for each in asked]
    engine.run()
    engine.close()
print(json.dumps({
    "found": [name for name in ("numba", "llvmlite", "scipy") if find_spec(name)],
    "decoding": core.runner.decoding,
    "card": [card.dtype, card.device],
    "tokens": [len(answer.token_ids) for answer in answers],
}))
"""


def test_serving_needs_no_package_that_the_cuda_image_lacks(tmp_path: Path) -> None:
    """A Python whose packages are ours without the three: nothing can import them, whatever it catches."""
    save("llama", tmp_path / "model")
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("numba", "llvmlite", "scipy")):
            (packages / path.name).symlink_to(path)
    paths = f"{Path(__file__).resolve().parents[2]}:{packages}"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", SERVE, tmp_path], env=os.environ | {"PYTHONPATH": paths}, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        "found": [],
        "decoding": GRAPHS,
        "card": ["bfloat16", "cuda:0"],
        "tokens": [4, 4],
    }


@pytest.mark.parametrize("asked", [{"device": "cuda:1"}, {"index": 1, "num_engines": 2}])
def test_engine_1_captures_on_its_own_gpu(asked: dict[str, Any], tmp_path: Path) -> None:
    """torch makes the stream that captures on the current device, whatever the model is on."""
    directory = save("llama", tmp_path / "model")
    with pretend_cuda(gpus_of("A10G", 2)) as gpus:
        config = config_of(directory, kv_capacity_tokens=1024, max_model_len=64, max_num_seqs=1, **asked)
        core, _ = start(config, StatusBoard(tmp_path / "board", create=True))
        core.socket.close()
        assert graph.captured_on is not None
        assert graph.captured_on.device == torch.device("cuda", 1)
        assert gpus.contexts == {1}


@pytest.mark.parametrize("kind", GPU_KINDS)
def test_bfloat16_is_computed_where_it_is_native(kind: str) -> None:
    with pretend_cuda(gpus_of(kind)):
        found = choose_dtype("auto", torch.device("cuda"))
    assert found is (torch.float16 if kind == "T4" else torch.bfloat16)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_static_experts_say_what_the_model_says(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    static = functools.partial(experts.static_experts, most=30)
    monkeypatch.setitem(experts.ALL_EXPERTS_FUNCTIONS._local_mapping, experts._NAME, static)
    model = build(family)
    ids = torch.arange(40)[None]
    for tokens in (1, 2, 3, 20, 40):
        with torch.inference_mode():
            model.set_experts_implementation("eager")
            expected = model(input_ids=ids[:, :tokens]).logits
            model.set_experts_implementation(experts._NAME)
            found = model(input_ids=ids[:, :tokens]).logits
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("family", "quantised", "expected"), [("llama", 0, 0), ("mixtral", 0, 1), ("mixtral", 1, 0)])
def test_static_experts_are_set_where_there_are_dense_ones(
    family: str, quantised: bool, expected: bool, two_gpus: Gpus
) -> None:
    """transformers says `grouped_mm` of every model, and fp8 experts look theirs up in a table of their own."""
    model = build(family).to("cuda", torch.bfloat16)
    if quantised:
        for layer in model.model.layers:
            layer.mlp.experts.down_proj = nn.Parameter(torch.zeros(1, dtype=torch.float8_e4m3fn), requires_grad=False)
    assert experts.use_static_experts(loaded(model), 4) is bool(expected)
    assert (model.config._experts_implementation == experts._NAME) is bool(expected)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_static_experts_that_compute_otherwise_are_not_taken(
    family: str, two_gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial could not tell: its reference has the same experts."""
    found = loaded(build(family).to("cuda", torch.bfloat16))
    real = experts._product
    monkeypatch.setattr(experts, "_product", lambda module, name, rows: real(module, name, rows).flip(0))
    assert not experts.use_static_experts(found, 4)
    monkeypatch.setattr(experts, "_product", real)
    assert experts.use_static_experts(found, 4)


def test_a_replayed_graph_counts_its_kernels_again(two_gpus: Gpus) -> None:
    number = torch.zeros(1, device="cuda")
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        number.add_(1)
    two_gpus.reset()
    for _ in range(3):
        captured.replay()
    assert two_gpus.kernels == {"aten::add_": 3}
    assert number.item() == 4  # the pretended device computes at the capture too


def test_no_decode_step_waits_for_the_host(two_gpus: Gpus) -> None:
    """A batch larger than the usual bound is one too, where the configuration allows it."""
    model = build("mixtral").to("cuda", torch.bfloat16)
    size = experts.MAX_STATIC_TOKENS + 1
    assert experts.use_static_experts(loaded(model), size)
    two_gpus.reset()
    with torch.inference_mode():
        model.model.layers[0].mlp(torch.zeros(1, size, model.config.hidden_size, dtype=torch.bfloat16, device="cuda"))
    assert not two_gpus.waits


def test_experts_that_wait_for_large_steps_leave_graphs_to_smaller_ones(tmp_path: Path) -> None:
    """An A100's largest step with a prompt has more tokens than experts compute without a wait."""
    config = EngineConfig(kv_capacity_tokens=4096, max_model_len=256, max_num_seqs=2, num_threads=1)
    with pretend_cuda(gpus_of("A100")):
        found = loaded(build("mixtral", **every_expert("mixtral")).to("cuda", torch.bfloat16))
        runner, _ = choose_runner(config, found, StatusBoard(tmp_path / "board", create=True))
    assert isinstance(runner, PagedRunner)
    assert {*runner.graphs.shapes} >= {Shape(2), Shape(0, 64), Shape(2, 64), Shape(0, 256)}
    assert max(shape.num_tokens for shape in runner.graphs.shapes) == experts.MAX_STATIC_TOKENS


@pytest.mark.parametrize("graphs", [True, False])
def test_no_step_waits_for_its_input(graphs: bool, two_gpus: Gpus) -> None:
    """One copy from pinned memory takes all numbers of a step; another the pages of sequences that got one."""
    bounds = limits(max_model_len=512, capacity_tokens=2048, page_size=256)
    runner = PagedRunner(loaded(build("llama").to("cuda", torch.bfloat16)), bounds)
    runner.prove()
    if not graphs:
        runner.graphs.drop("for this test")
    kv = runner.kv_manager(bounds)
    request = GenerateRequest("r", [5] * 30, SamplingParams(max_tokens=1, seed=0), 1.0)
    seqs = [Sequence(request, b"", 0.0, 1.0) for _ in range(3)]
    assert all(kv.reserve(seq, 30) for seq in seqs)
    decodes = [ScheduledSequence(seq, 29, 1) for seq in seqs[:2]]
    chunk = ScheduledSequence(seqs[2], 4, 9)
    for items in ([chunk], decodes, [*decodes, chunk]):
        two_gpus.reset()
        runner.run(ScheduledBatch(items))
        assert not two_gpus.waits
        assert not two_gpus.uploads
        assert two_gpus.replays == graphs


def over_two(family: str, first: int) -> LoadedModel:
    """A model with its first layers on one GPU and the others on the next, as accelerate places it."""
    model = build(family).to(torch.bfloat16)
    places = {"model.embed_tokens": "cuda:0", "model.rotary_emb": "cuda:0", "model.norm": "cuda:1", "lm_head": "cuda:1"}
    places |= {f"model.layers.{i}": f"cuda:{int(i >= first)}" for i in range(model.config.num_hidden_layers)}
    found = loaded(dispatch_model(model, places, force_hooks=True))
    return dataclasses.replace(found, other_devices=(torch.device("cuda", 1),))


@pytest.mark.parametrize(
    ("family", "layout"), [("llama", KVLayout.AUTO), ("gemma2", KVLayout.AUTO), ("gpt_oss", KVLayout.SLOTS)]
)
def test_layers_over_two_gpus(family: str, layout: KVLayout, two_gpus: Gpus, tmp_path: Path) -> None:
    config = EngineConfig(max_model_len=256, kv_capacity_tokens=4096, max_num_seqs=4, kv_layout=layout)
    board = StatusBoard(tmp_path / "board", create=True)
    runner, _ = choose_runner(config, over_two(family, 2), board)
    assert runner.name == ("paged" if layout is KVLayout.AUTO else "slots")


def test_the_gpu_with_most_layers_bounds_kv_memory(two_gpus: Gpus) -> None:
    found = over_two("llama", 1)
    assert layer_shares(found) == {torch.device("cuda", 0): 0.25, torch.device("cuda", 1): 0.75}
    for gpu in two_gpus.all:
        gpu.total = GIB
    room = min(two_gpus.all[0].free / 0.25, two_gpus.all[1].free / 0.75)
    limits = derive_limits(EngineConfig(), found, paged=True)
    assert limits.capacity_tokens == pytest.approx(0.85 * room / bytes_per_token(found), rel=0.01)


def test_layers_without_numbers_bound_kv_memory_as_if_on_every_gpu(two_gpus: Gpus) -> None:
    found = over_two("llama", 1)
    found = dataclasses.replace(found, model=found.model.model.norm)
    assert layer_shares(found) == {torch.device("cuda", 0): 1.0, torch.device("cuda", 1): 1.0}


def test_what_the_loader_freed_is_room_for_keys(two_gpus: Gpus) -> None:
    gpu = two_gpus.all[0]
    gpu.total = GIB
    found = dataclasses.replace(loaded(build("llama").to("cuda", torch.bfloat16)))
    spent: Any = torch.zeros(GIB // 2, dtype=torch.uint8, device="cuda")
    del spent
    assert gpu.cached >= GIB // 2
    limits = derive_limits(EngineConfig(), found, paged=True)
    assert limits.capacity_tokens == pytest.approx(0.85 * gpu.total / bytes_per_token(found), rel=0.01)


def test_a_long_prompt_is_scored_in_blocks(two_gpus: Gpus) -> None:
    """A chunk's logits in float32 at once are what a busy GPU has no room for."""
    vocab, length = 1000, 3 * prompt_scores._SCORED_ROWS
    ids = [i % vocab for i in range(length + 1)]
    request = GenerateRequest("r", ids, SamplingParams(max_tokens=1, seed=0, num_prompt_logprobs=2), 60.0)
    seq = Sequence(request, b"worker", 0.0, 60.0)
    numbers = torch.randn(length, vocab)
    rows = numbers.to("cuda", torch.bfloat16)
    gpu = two_gpus.all[0]
    gpu.total = gpu.allocated + 4 * prompt_scores._SCORED_ROWS * vocab * 4
    score_prompt(rows, ScheduledSequence(seq, 0, length))
    expected = numbers.to(torch.bfloat16).float().log_softmax(-1)
    assert [each.logprob for each in seq.prompt_logprobs] == expected[range(length), ids[1:]].tolist()
    assert [[i for i, _ in each.top] for each in seq.prompt_logprobs] == expected.topk(2).indices.tolist()
