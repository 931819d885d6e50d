"""Engines over tiny models; every one is closed, with its memory books balanced, when its test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handler.model_runner import ModelRunner
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., LocalEngine]]:
    engines: list[LocalEngine] = []

    def make(model: Any, eos: frozenset[int] = frozenset(), max_waiting: int = 256, **changes: int) -> LocalEngine:
        directory = tmp_path / str(len(engines))
        directory.mkdir()
        bounds = limits(**changes)
        runner = ModelRunner(loaded(model, eos), bounds.max_num_seqs, bounds.max_model_len)
        runner.probe()
        engines.append(LocalEngine(runner, bounds, directory, max_waiting))
        return engines[-1]

    yield make
    for engine in engines:
        engine.core.scheduler.check_integrity()
        engine.close()


@pytest.fixture
def llama() -> Any:
    return tiny_models.build("llama")
