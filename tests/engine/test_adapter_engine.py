"""Adapters through the whole engine: registered, chosen, evicted, unregistered, and there again after a restart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from handler.adapters.adapter import Adapter
from handler.adapters.model_shape import ModelShape
from handler.adapters.reading import read_adapter
from handler.runners.dynamic_cache.runner import DynamicCacheRunner
from handler.runners.paged.runner import PagedRunner
from handler.runners.runner import Runner
from handler.runners.slots.runner import SlotRunner
from handler.seam.protocol import AdapterDone, ErrorCode
from tests.support import adapters, tiny_models
from tests.support.local_engine import LocalEngine, Outcome, limits, loaded

PROMPT = [(7 * i) % 250 for i in range(40)]
KINDS = ("slots", "pages", "cache")
Start = Callable[..., LocalEngine]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_models.build("llama", num_hidden_layers=2)


@pytest.fixture(scope="module")
def files(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters that peft made: three that differ, and one of a large rank."""
    at = tmp_path_factory.mktemp("adapters")
    found = {
        name: adapters.write(model, at / name, seed, target_modules="all-linear") for seed, name in enumerate("abc")
    }
    return found | {"large": adapters.write(model, at / "large", 9, r=48, target_modules=["q_proj"])}


@pytest.fixture(scope="module")
def said(model: Any, files: dict[str, Path]) -> dict[str | None, list[int]]:
    """What peft itself says after `PROMPT` with each adapter, and what the base says."""
    found = {name: _greedy(adapters.peft_model(model, files[name])) for name in "abc"}
    assert len({tuple(each) for each in (*found.values(), _greedy(model))}) == 4, "adapters that can be told apart"
    return {None: _greedy(model), **found}


def _greedy(model: Any, num_tokens: int = 8) -> list[int]:
    ids = list(PROMPT)
    with torch.no_grad():
        for _ in range(num_tokens):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]


@pytest.fixture
def start(model: Any, tmp_path: Path) -> Iterator[Start]:
    engines: list[LocalEngine] = []

    def begin(
        kind: str = "slots", wrap: Callable[[Callable[..., Adapter]], Any] = lambda read: read, **given: Any
    ) -> LocalEngine:
        """`wrap` makes something of the function that reads an adapter."""
        directory = tmp_path / f"engine{len(engines)}"
        directory.mkdir()
        own = copy.deepcopy(model)
        read = wrap(partial(read_adapter, model=ModelShape.of(own)))
        bounds = limits(num_stored_pages=24, page_size=8)
        settings = {"max_adapters": 2, "adapters_path": str(tmp_path / "adapters")} | given
        engines.append(LocalEngine(_runner(kind, own), bounds, directory, read_adapter=read, **settings))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.core.scheduler.check_integrity()
        engine.close()


def _runner(kind: str, model: Any) -> Runner:
    bounds = limits(num_stored_pages=24, page_size=8)
    found: Runner
    if kind == "pages":
        found = PagedRunner(loaded(model), bounds)
    elif kind == "cache":
        found = DynamicCacheRunner(loaded(model), bounds.max_model_len)
    else:
        found = SlotRunner(loaded(model), bounds.max_num_seqs, bounds.max_model_len, 24, 8)
        found.accelerate()
    found.prove()
    return found


def ask(engine: LocalEngine, *names: str | None, **options: Any) -> list[Outcome]:
    """Ask for the greedy answer with each adapter, all at once."""
    return [engine.submit(PROMPT, adapter=name, **options) for name in names]


def answers(engine: LocalEngine, *names: str | None, **options: Any) -> list[list[int]]:
    found = ask(engine, *names, **options)
    engine.run()
    return [outcome.token_ids for outcome in found]


@pytest.mark.parametrize("kind", KINDS)
def test_each_request_gets_its_adapter_beside_all_others(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]], kind: str
) -> None:
    """Three adapters in two slots, twice: each in turn gives way and comes back, and prefixes are reused."""
    engine = start(kind)
    for name in "abc":
        assert isinstance(engine.register(name, files[name]), AdapterDone)
    names = ["a", None, "b", "c", "a", None, "c"]
    for _ in range(2):
        assert answers(engine, *names) == [said[name] for name in names]
    assert engine.board["adapters_registered"] == 3
    assert engine.board["adapters_resident"] == 2
    assert engine.board["adapter_evictions"] >= 2
    assert engine.board["adapter_loads"] == engine.board["adapter_evictions"] + 2
    cached = [outcome.num_cached_tokens for outcome in engine.outcomes.values()][len(names) :]
    assert cached == [0 if kind == "cache" else 32] * len(names)


@pytest.mark.parametrize("kind", ["slots", "pages"])
def test_no_page_of_one_adapter_serves_another(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]], kind: str
) -> None:
    engine = start(kind)
    engine.register("a", files["a"])
    engine.register("b", files["b"])
    for name in (None, "a", "b"):
        (first,) = ask(engine, name)
        engine.run()
        assert (first.num_cached_tokens, first.token_ids) == (0, said[name])
    engine.unregister("a")
    engine.register("a", files["c"])  # the name means other weights now
    (again,) = ask(engine, "a")
    engine.run()
    assert (again.num_cached_tokens, again.token_ids) == (0, said["c"])


def test_choices_of_one_request_share_its_prompt(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]]
) -> None:
    engine = start()
    engine.register("a", files["a"])
    assert answers(engine, "a", "a", "a") == [said["a"]] * 3
    assert sorted(each.num_cached_tokens for each in engine.outcomes.values()) == [0, 32, 32]


def test_the_log_probabilities_of_a_prompt_are_the_adapters(model: Any, start: Start, files: dict[str, Path]) -> None:
    engine = start()
    engine.register("a", files["a"])
    (outcome,) = ask(engine, "a", num_prompt_logprobs=0, max_tokens=1)
    engine.run()
    with torch.no_grad():
        logits = adapters.peft_model(model, files["a"])(input_ids=torch.tensor([PROMPT])).logits[0]
    expected = logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(PROMPT[1:])[:, None])[:, 0].tolist()
    assert [each.logprob for each in outcome.prompt_logprobs] == pytest.approx(expected, abs=2e-3)


def test_an_unregistered_adapter_is_unknown_at_once_and_leaves_when_nobody_uses_it(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]], tmp_path: Path
) -> None:
    engine = start()
    engine.register("a", files["a"])
    running = ask(engine, "a")[0]
    engine.step()
    assert isinstance(engine.unregister("a"), AdapterDone)
    (late,) = ask(engine, "a")
    engine.step()
    assert late.error is not None
    assert late.error.code is ErrorCode.UNKNOWN_ADAPTER
    assert not running.done
    before = engine.board["adapter_bytes"]
    assert before > 0, "it is in use"
    assert isinstance(engine.register("a", files["b"]), AdapterDone), "the name is free while the old one drains"
    after = ask(engine, "a")[0]
    engine.run()
    assert (running.token_ids, after.token_ids) == (said["a"], said["b"])
    engine.unregister("a")
    engine.step()
    names = ("adapters_registered", "adapters_resident", "adapter_bytes")
    assert [engine.board[name] for name in names] == [0, 0, 0]


def test_many_adapters_leave_nothing_behind(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]], tmp_path: Path
) -> None:
    engine = start(max_adapters=3)
    names = [f"{name}{i}" for i in range(4) for name in "abc"]
    for name in names:
        engine.register(name, files[name[0]])
    assert answers(engine, *names) == [said[name[0]] for name in names]
    for name in names:
        engine.unregister(name)
    engine.step()
    assert engine.core.adapters is not None
    engine.core.adapters.wait_for_reader()
    assert [engine.board[name] for name in ("adapters_registered", "adapters_resident", "adapter_bytes")] == [0, 0, 0]
    assert [path for path in (tmp_path / "adapters").iterdir() if path.is_dir()] == []
    assert answers(engine, None) == [said[None]]


def test_streams_go_on_while_an_adapter_is_read(start: Start, files: dict[str, Path]) -> None:
    may_read = Event()

    def slow(read: Callable[..., Adapter]) -> Any:
        return lambda path: read(path) if may_read.wait(60) else None

    engine = start(wrap=slow)
    stream = engine.submit(PROMPT, max_tokens=30)
    request_id = engine.tell(registering("a", files["a"]))
    for _ in range(12):
        engine.step()
    assert len(stream.token_ids) >= 10
    assert request_id not in engine.replies
    may_read.set()
    assert isinstance(engine.answer(request_id), AdapterDone)


def registering(name: str, path: Path, **options: Any) -> Any:
    from handler.seam.protocol import RegisterAdapter

    values = {"registration": f"{name}-registration"} | options
    return RegisterAdapter(f"register-{name}", name, str(path), **values)
