"""Engines over tiny models; every one is closed, with its memory books balanced, when its test ends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from handler.kernels import compiler
from handler.linears.onednn_linear import keep_onednn_off_amx
from handler.runners.choice import choose_runner
from handler.runners.slots.runner import SlotRunner
from handler.sampling.grammar import GrammarCompiler
from handler.seam.config import EngineConfig
from handler.seam.status import StatusBoard
from tests.support import schedules, tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded
from tests.support.pretend_cuda import gpus_of, pretend_cuda

# As the engine does before anything else.
keep_onednn_off_amx()


@pytest.fixture(scope="session", autouse=True)
def _kernels(kept: Path) -> None:
    compiler.use_cache_dir(kept)


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., LocalEngine]]:
    engines: list[LocalEngine] = []

    def make(model: Any, eos: frozenset[int] = frozenset(), max_waiting: int = 256, **changes: int) -> LocalEngine:
        directory = tmp_path / str(len(engines))
        directory.mkdir()
        bounds = limits(**changes)
        # A copy: the runner rebuilds the model's layers.
        stored = (bounds.num_stored_pages, bounds.page_size)
        found = loaded(copy.deepcopy(model), eos)
        runner = SlotRunner(found, bounds.max_num_seqs, bounds.max_model_len, *stored)
        runner.accelerate()
        runner.prove()
        engines.append(LocalEngine(runner, bounds, directory, max_waiting))
        return engines[-1]

    yield make
    for engine in engines:
        engine.core.scheduler.check_integrity()
        engine.close()


@pytest.fixture
def start_engine(tmp_path: Path) -> Iterator[Callable[..., LocalEngine]]:
    """Engines over the runner that start-up would choose; on one thread, since the tiny models gain nothing from more
    and lose much where the cores are shared."""
    engines: list[LocalEngine] = []
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def start(model: Any, **changes: int) -> LocalEngine:
        directory = tmp_path / f"chosen{len(engines)}"
        directory.mkdir()
        small = {"max_model_len": 64, "max_num_seqs": 4, "max_num_batched_tokens": 16, "page_size": 16}
        config = EngineConfig(**(small | {"kv_capacity_tokens": 4096} | changes))
        runner, bounds = choose_runner(config, loaded(model), StatusBoard(directory / "status", create=True))
        engines.append(LocalEngine(runner, bounds, directory))
        return engines[-1]

    yield start
    torch.set_num_threads(num_threads)
    for engine in engines:
        engine.core.scheduler.check_integrity()
        engine.close()


@pytest.fixture
def gpu() -> Iterator[None]:
    """CUDA: a real device where there is one, else a pretended A10G."""
    if torch.cuda.is_available():
        yield
        return
    with pretend_cuda(gpus_of("A10G")):
        yield


@pytest.fixture
def llama() -> Any:
    return tiny_models.build("llama")


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that starts in this process keeps its kernels elsewhere, and shuts the hub out; clients tested after
    it want theirs."""
    monkeypatch.setattr(compiler._CACHE, "directory", compiler._CACHE.directory)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture(scope="module")
def grammars(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    """Grammars over the tiny models' tokenizer."""
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_models.write_tokenizer(directory)
    return GrammarCompiler(directory / "tokenizer.json", tiny_models.VOCAB_SIZE, {tiny_models.EOS_ID})


@pytest.fixture(scope="module")
def solos(tmp_path_factory: pytest.TempPathFactory, grammars: GrammarCompiler) -> Iterator[dict[str, LocalEngine]]:
    """An engine for each layout of memory, in which requests run alone and unguessed."""
    directory = tmp_path_factory.mktemp("solo")
    found = {
        name: schedules.engine(directory / name, kind, grammars)
        for name, kind in (("slots", "roomy"), ("paged", "paged"))
    }
    yield found
    for each in found.values():
        each.close()
