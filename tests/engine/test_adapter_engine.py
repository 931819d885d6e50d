"""Adapters through the whole engine: registered, chosen, evicted, unregistered, and there again after a restart."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event, get_ident
from typing import Any

import pytest
import torch
from msgspec import structs

from handler.adapters.adapter import Adapter
from handler.adapters.model_shape import ModelShape
from handler.adapters.reading import read_adapter
from handler.engine.adapters import at_start
from handler.engine.adapters.own_copy import content_fingerprint, copy_files
from handler.runners.dynamic_cache.runner import DynamicCacheRunner
from handler.runners.paged.adapters.adapters import PagedAdapters
from handler.runners.paged.adapters.memory import AdapterRoom
from handler.runners.paged.runner import PagedRunner
from handler.runners.runner import Runner
from handler.runners.slots.runner import SlotRunner
from handler.seam.adapter_list import CHANGES, AdapterEntry, AdapterList, new_registration, try_lock
from handler.seam.config import AdapterSource
from handler.seam.errors import BadConfiguration
from handler.seam.protocol import (
    AdapterDone,
    AdapterErrorCode,
    AdapterRefused,
    AdapterReply,
    ErrorCode,
    RegisterAdapter,
)
from handler.seam.suspects import Hazards, Suspects
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
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def begin(
        kind: str = "pages",
        wrap: Callable[[Callable[..., Adapter]], Any] = lambda read: read,
        draft: Any = None,
        **given: Any,
    ) -> LocalEngine:
        """`wrap` makes something of the function that reads an adapter; `draft` is a model that guesses."""
        directory = tmp_path / f"engine{len(engines)}"
        directory.mkdir()
        own = copy.deepcopy(model)
        read = wrap(partial(read_adapter, model=ModelShape.of(own)))
        bounds = limits(num_stored_pages=24, page_size=8)
        settings = {"max_adapters": 2, "adapters_path": str(tmp_path / "adapters")} | given
        beside = None if draft is None else (_runner(kind, copy.deepcopy(draft), 1), bounds)
        runner = _runner(kind, own, settings["max_adapters"])
        engines.append(LocalEngine(runner, bounds, directory, draft=beside, read_adapter=read, **settings))
        return engines[-1]

    yield begin
    torch.set_num_threads(num_threads)
    with ExitStack() as closing:
        for engine in engines:
            closing.callback(engine.close)
        for engine in engines:
            engine.core.scheduler.check_integrity()


def _runner(kind: str, model: Any, num_slots: int) -> Runner:
    bounds = limits(num_stored_pages=24, page_size=8)
    found: Runner
    if kind == "pages":
        held = loaded(model)
        found = PagedRunner(held, bounds, True, PagedAdapters(held, AdapterRoom(num_slots, 64)))
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
    assert [engine.board[name] for name in ("adapters_registered", "adapters_resident", "adapter_bytes")] == [0, 0, 0]
    deadline = time.monotonic() + 60
    while copies := [path for path in (tmp_path / "adapters").iterdir() if path.is_dir()]:
        assert time.monotonic() < deadline, f"copies are left: {copies}"
        time.sleep(0.01)
    assert answers(engine, None) == [said[None]]


def test_streams_go_on_while_an_adapter_is_read(start: Start, files: dict[str, Path]) -> None:
    may_read = Event()

    def slow(read: Callable[..., Adapter]) -> Any:
        return lambda path: read(path) if may_read.wait(60) else None

    engine = start(wrap=slow)
    stream = engine.submit(PROMPT, max_tokens=30)
    request_id = engine.tell(RegisterAdapter("the-request", "a", str(files["a"]), "registration-of-a"))
    for _ in range(12):
        engine.step()
    assert len(stream.token_ids) >= 10
    assert request_id not in engine.replies
    may_read.set()
    assert isinstance(engine.answer(request_id), AdapterDone)


def refusal(reply: AdapterReply) -> tuple[AdapterErrorCode, str]:
    assert isinstance(reply, AdapterRefused), "it was not refused"
    return reply.code, reply.message


def test_what_cannot_be_registered_is_refused_with_a_sentence(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]], tmp_path: Path
) -> None:
    engine = start(max_adapters=2, max_adapter_rank=16, max_cpu_adapters=3)
    engine.register("a", files["a"], pin=True)
    engine.register("b", files["b"])
    invalid, bad, full, unknown = (AdapterErrorCode(each) for each in ("invalid", "bad", "full", "unknown"))
    cases = [
        (engine.register("a", files["b"]), invalid, "Adapter a is already registered"),
        (engine.register("none", tmp_path / "nowhere"), bad, "nowhere is not a directory"),
        (engine.register("large", files["large"]), bad, "rank is 48, and MAX_ADAPTER_RANK is 16"),
        (engine.register("c", files["c"], pin=True), full, "2 of the 2 places on the device would be pinned"),
        (engine.unregister("none"), unknown, "Adapter none is not registered"),
        (engine.pin("none", True), unknown, "Adapter none is not registered"),
    ]
    assert isinstance(engine.register("c", files["c"]), AdapterDone)
    slots = list(engine.adapters.slots.contents)
    assert isinstance(engine.pin("b", False), AdapterDone)
    assert engine.adapters.slots.contents == slots, "only who is pinned is given a slot at once"
    cases.append((engine.pin("b", True), full, "2 of the 2 places on the device would be pinned"))
    cases.append((engine.register("d", files["c"]), full, "3 adapters are registered; MAX_CPU_ADAPTERS allows no more"))
    for reply, code, sentence in cases:
        found, message = refusal(reply)
        assert (found, sentence in message) == (code, True), message
    assert isinstance(engine.pin("a", False), AdapterDone)
    assert isinstance(engine.pin("b", True), AdapterDone)
    assert answers(engine, "a", "b", "c", None) == [said[name] for name in ("a", "b", "c", None)]
    folders = [path.name for path in (tmp_path / "adapters").iterdir() if path.is_dir()]
    assert len(folders) == 3, "what is refused leaves no copy"


def test_an_adapter_that_memory_does_not_hold_is_refused(
    start: Start, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.engine.adapters.reader._SPARED", 1 << 60)
    assert refusal(start().register("a", files["a"]))[0] is AdapterErrorCode.FULL
    none = refusal(start(max_adapters=0).register("a", files["a"]))
    assert none == (AdapterErrorCode.BAD, "This server loads no adapters: MAX_ADAPTERS is 0")


def test_one_that_is_replaced_serves_its_own_requests_to_their_ends(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]]
) -> None:
    engine = start()
    engine.register("a", files["a"])
    old = ask(engine, "a")[0]
    engine.step()
    assert isinstance(engine.register("a", files["large"], replace=True), AdapterDone)
    assert isinstance(engine.register("a", files["b"], replace=True), AdapterDone)
    new = ask(engine, "a")[0]
    engine.run()
    assert (old.token_ids, new.token_ids) == (said["a"], said["b"])
    assert refusal(engine.register("a", files["a"].parent, replace=True))[0] is AdapterErrorCode.BAD
    assert answers(engine, "a") == [said["b"]], "what cannot be read replaces nothing"


def test_a_change_that_is_undone_names_the_old_adapter_again(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]]
) -> None:
    """Another engine may refuse the new one. The old one, in use or gone, comes back by its registration."""
    engine = start()
    engine.register("a", files["a"], registration="old")
    stream = ask(engine, "a")[0]
    engine.step()
    for registration, path in (("new", "b"), ("old", "a")):
        reply = engine.register("a", files[path], registration=registration, replace=True)
        assert isinstance(reply, AdapterDone)
    assert answers(engine, "a") == [said["a"]]
    assert stream.token_ids == said["a"]
    for registration, path in (("new", "b"), ("old", "a")):  # nobody uses the old one now
        engine.register("a", files[path], registration=registration, replace=True)
        engine.step()
    assert answers(engine, "a") == [said["a"]]
    assert engine.board["adapters_registered"] == 1


def test_what_is_unregistered_while_it_is_read_is_never_served(start: Start, files: dict[str, Path]) -> None:
    may_read = Event()

    def slow(read: Callable[..., Adapter]) -> Any:
        return lambda path: read(path) if may_read.wait(60) else None

    engine = start(wrap=slow)
    first = engine.tell(RegisterAdapter("one", "a", str(files["a"]), "registration"))
    again = engine.tell(RegisterAdapter("two", "a", str(files["a"]), "registration"))
    other = engine.tell(RegisterAdapter("three", "a", str(files["a"]), "other"))
    assert refusal(engine.answer(other))[0] is AdapterErrorCode.INVALID
    assert isinstance(engine.unregister("a"), AdapterDone)
    third = engine.tell(RegisterAdapter("four", "a", str(files["a"]), "third"))
    fourth = engine.tell(RegisterAdapter("five", "a", str(files["b"]), "fourth", replace=True))
    engine.step()
    may_read.set()
    assert refusal(engine.answer(third))[0] is AdapterErrorCode.UNKNOWN
    assert isinstance(engine.answer(fourth), AdapterDone)
    engine.unregister("a")
    assert [refusal(engine.answer(each))[0] for each in (first, again)] == [AdapterErrorCode.UNKNOWN] * 2
    (late,) = ask(engine, "a")
    engine.run()
    assert late.error is not None


def test_guesses_change_no_answer(model: Any, start: Start, files: dict[str, Path]) -> None:
    """A draft model guesses as the base would; what it gets wrong costs time alone."""
    plain, guessing = start(), start(draft=model)
    found = []
    for engine in (plain, guessing):
        for name in "ab":
            engine.register(name, files[name])
        found.append(answers(engine, "a", None, "b", max_tokens=24))
    assert found[0] == found[1]
    assert guessing.core.scheduler.drafter is not None


def test_a_restarted_engine_has_what_was_listed_though_the_files_are_gone(
    model: Any, start: Start, files: dict[str, Path], said: dict[str | None, list[int]], tmp_path: Path
) -> None:
    src = {name: shutil.copytree(files[name], tmp_path / "src" / name) for name in "abc"}
    listed = AdapterList(tmp_path / "adapters")
    first, second = start(), start()
    configured = (AdapterSource("c", str(src["c"])),)
    for engine in (first, second):
        at_start.register_listed(structs.replace(engine.config, adapters=configured), engine.adapters, progress)
    for name in "ab":
        registration = new_registration()
        listed.add(AdapterEntry(name=name, src=str(src[name]), registration=registration, pin=name == "b"))
        for engine in (first, second):
            assert isinstance(engine.register(name, src[name], registration=registration), AdapterDone)
        listed.mark_ready(registration)
    shutil.rmtree(tmp_path / "src")
    assert [answers(engine, "a", "b", "c") for engine in (first, second)] == [[said[name] for name in "abc"]] * 2
    third = start(adapters=configured)
    at_start.register_listed(third.config, third.adapters, progress)
    assert answers(third, "c", "b", "a", None) == [said[name] for name in ("c", "b", "a", None)]
    assert [(each.name, each.pin, each.ready) for each in listed.read()] == [
        ("c", False, True),
        ("a", False, True),
        ("b", True, True),
    ]


def progress(_permille: int, _text: str) -> None:
    """Nobody watches."""


def test_an_adapter_of_the_start_that_cannot_be_loaded_ends_it(start: Start, tmp_path: Path) -> None:
    """In whichever engine, and whatever another has done. One that served it before goes on without."""
    engine, listed = start(adapters=(AdapterSource("x", str(tmp_path)),)), AdapterList(tmp_path / "adapters")
    for _ in range(2):
        with pytest.raises(BadConfiguration, match=r"LORA_ADAPTERS: adapter x: .*adapter_config.json"):
            at_start.register_listed(engine.config, engine.adapters, progress)
        listed.mark_ready(listed.read()[0].registration)
    at_start.register_listed(engine.config, engine.adapters, progress, restarted=True)
    assert listed.read() == []


def test_what_was_served_and_cannot_be_read_any_more_is_served_nowhere(
    start: Start, files: dict[str, Path], tmp_path: Path
) -> None:
    listed = AdapterList(tmp_path / "adapters")
    for name, src in (("gone", tmp_path / "gone"), ("a", files["a"])):
        listed.add(AdapterEntry(name=name, src=str(src), registration=new_registration(), ready=True))
    engine = start()
    at_start.register_listed(engine.config, engine.adapters, progress)
    assert [entry.name for entry in listed.read()] == ["a"]
    assert engine.adapters.num_registered == 1


def test_an_adapter_listed_while_the_engine_started_is_registered_then(
    start: Start,
    files: dict[str, Path],
    said: dict[str | None, list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before any request; one that cannot be loaded is served nowhere."""
    engine = start()
    at_start.register_listed(engine.config, engine.adapters, progress)
    registration = new_registration()
    AdapterList(tmp_path / "adapters").add(AdapterEntry(name="a", src=str(files["a"]), registration=registration))
    bad = AdapterEntry(name="x", src=str(tmp_path), registration=new_registration())
    AdapterList(tmp_path / "adapters").add(bad)
    beats: list[None] = []
    monkeypatch.setattr("handler.engine.adapters.registry._BEAT_S", 1e-6)
    at_start.catch_up(engine.config, engine.adapters, lambda: beats.append(None))
    assert beats, "PID 1 must see that the engine lives"
    assert answers(engine, "a") == [said["a"]], "the first step knows it"
    assert isinstance(engine.register("a", files["a"], registration=registration), AdapterDone)
    assert [entry.name for entry in AdapterList(tmp_path / "adapters").read()] == ["a"]
    assert "an adapter is no longer served: adapter x: " in caplog.text


def is_gone(engine: LocalEngine, path: Path) -> bool:
    """Wait until the engines' thread has deleted a copy."""
    deadline = time.monotonic() + 60
    while path.exists() and time.monotonic() < deadline:
        engine.step()
        time.sleep(0.01)
    return not path.exists()


def test_copies_of_what_is_not_listed_are_deleted_at_the_start(start: Start, tmp_path: Path) -> None:
    """Also those that are not whole; another engine may be making one."""
    at = tmp_path / "adapters"
    gone, kept = ("left-behind", "new-abc", f"new-{2**22 + 1}-abc"), at / f"new-{os.getpid()}-abc"
    for path in (*(at / name for name in gone), kept):
        path.mkdir(parents=True)
    engine = start()
    at_start.register_listed(engine.config, engine.adapters, progress)
    assert all(is_gone(engine, at / name) for name in gone)
    assert kept.is_dir()


@pytest.mark.parametrize("is_undone", [True, False])
def test_the_first_engine_that_drops_an_adapter_leaves_its_copy_to_the_others(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]], tmp_path: Path, is_undone: bool
) -> None:
    """Another engine may restart, or refuse what comes in its place, before the change is over. The files are gone."""
    src, listed = shutil.copytree(files["a"], tmp_path / "src"), AdapterList(tmp_path / "adapters")
    entry = AdapterEntry(name="a", src=str(src), registration="old", ready=True)
    first, second = start(), start()
    listed.add(entry)
    for engine in (first, second):
        assert isinstance(engine.register("a", src, registration="old"), AdapterDone)
    shutil.rmtree(src)
    stream = ask(second, "a")[0]
    second.step()
    with (listed.directory / CHANGES).open("w") as file:
        assert try_lock(file.fileno())
        assert isinstance(first.register("a", files["b"], registration="new", replace=True), AdapterDone)
        first.step()
        third = start()
        at_start.register_listed(third.config, third.adapters, progress)
        assert answers(third, "a") == [said["a"]], "it has restarted meanwhile"
        assert (listed.directory / "new").is_dir()
        if is_undone:
            assert isinstance(first.register("a", src, registration="old", replace=True), AdapterDone)
        else:
            assert isinstance(second.register("a", files["b"], registration="new", replace=True), AdapterDone)
            listed.replace(structs.replace(entry, registration="new"))
    assert answers(first, "a") == [said["a" if is_undone else "b"]]
    assert is_gone(first, listed.directory / ("new" if is_undone else "old"))
    assert (listed.directory / ("old" if is_undone else "new")).is_dir()
    second.run()
    assert stream.token_ids == said["a"], "it needs no files"


def test_an_adapter_unregistered_while_the_engine_started_leaves_it(
    start: Start, files: dict[str, Path], tmp_path: Path
) -> None:
    listed = AdapterList(tmp_path / "adapters")
    listed.add(AdapterEntry(name="a", src=str(files["a"]), registration="gone", ready=True))
    engine = start()
    at_start.register_listed(engine.config, engine.adapters, progress)
    listed.remove("gone")
    at_start.catch_up(engine.config, engine.adapters, lambda: None)
    engine.step()
    assert [engine.board[name] for name in ("adapters_registered", "adapter_bytes")] == [0, 0]
    assert is_gone(engine, listed.directory / "gone")


@pytest.mark.parametrize("dies_copying", [False, True])
def test_an_adapter_that_ends_two_engines_is_not_loaded_a_third_time(
    start: Start, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_copying: bool
) -> None:
    """One dies while it is copied or read and one while it enters a slot; another name or place helps nobody."""
    hazards, suspects = Hazards(tmp_path / "h", create=True), Suspects(tmp_path / "s", create=True)
    marks = {"hazards_path": str(tmp_path / "h"), "suspects_path": str(tmp_path / "s")}

    def die(*_: Any, **__: Any) -> Any:
        suspects.record_deaths(hazards.take())  # as PID 1 does
        raise KeyboardInterrupt

    reading = start(wrap=lambda _read: die, **marks)
    if dies_copying:
        monkeypatch.setattr("handler.engine.adapters.reader.copy_files", die)
    with pytest.raises(KeyboardInterrupt):
        reading.register("a", files["a"])
    monkeypatch.setattr("handler.engine.adapters.reader.copy_files", copy_files)
    filling = start(**marks)
    monkeypatch.setattr(filling.core.runner, "load_adapter", die)
    with pytest.raises(KeyboardInterrupt):
        filling.register("a", files["a"])
    moved = shutil.copytree(files["a"], tmp_path / "moved")
    code, message = refusal(start(**marks).register("other", moved))
    assert code is AdapterErrorCode.BAD
    assert "died 2 times while it loaded this adapter" in message
    assert isinstance(start(**marks).register("b", files["b"]), AdapterDone)


def test_an_adapter_that_was_loaded_after_a_death_is_no_suspect(
    start: Start, files: dict[str, Path], tmp_path: Path
) -> None:
    hazards, suspects = Hazards(tmp_path / "h", create=True), Suspects(tmp_path / "s", create=True)
    engine = start(hazards_path=str(tmp_path / "h"), suspects_path=str(tmp_path / "s"))
    own = content_fingerprint(files["a"])
    suspects.record_deaths({own: 0})
    engine.register("a", files["a"])
    assert suspects.find(own) == (0, 0)
    assert hazards.take() == {}, "nothing is being loaded any more"


def test_a_fault_at_loading_fails_only_who_asked_for_that_adapter(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that was there at registration may be gone when the adapter comes back to a slot."""
    engine = start(max_adapters=1)
    engine.register("a", files["a"])
    engine.register("b", files["b"])
    load = engine.core.runner.load_adapter

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(engine.core.runner, "load_adapter", full)
    failed, base = ask(engine, "a", None)
    engine.run()
    assert failed.error is not None
    assert failed.error.code is ErrorCode.OUT_OF_MEMORY
    assert base.token_ids == said[None]
    monkeypatch.setattr(engine.core.runner, "load_adapter", load)
    assert answers(engine, "a", "b") == [said["a"], said["b"]]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_runner_refuses_is_refused_while_every_slot_is_in_use(
    start: Start, files: dict[str, Path], said: dict[str | None, list[int]], kind: str
) -> None:
    """An adapter of a module that the runner does not have, as if the two knew different models."""

    def misread(read: Callable[..., Adapter]) -> Any:
        def found(path: Path) -> Adapter:
            adapter = read(path)
            products = {f"elsewhere.{name}": product for name, product in adapter.products.items()}
            return dataclasses.replace(adapter, products=products) if path.name == "wrong" else adapter

        return found

    engine = start(kind, wrap=misread, max_adapters=1, adapters_path="")
    engine.register("a", files["a"])
    stream = ask(engine, "a")[0]
    engine.step()
    wrong = shutil.copytree(files["b"], files["b"].parent / kind / "wrong")
    assert refusal(engine.register("b", wrong))[0] is AdapterErrorCode.BAD
    assert isinstance(engine.register("b", files["b"]), AdapterDone)
    engine.run()
    assert stream.token_ids == said["a"]
    assert answers(engine, "b", None) == [said["b"], said[None]]
    assert engine.board["adapters_registered"] == 2


def test_a_server_that_stops_answers_who_waits(start: Start, files: dict[str, Path]) -> None:
    may_read = Event()

    def slow(read: Callable[..., Adapter]) -> Any:
        return lambda path: read(path) if may_read.wait(60) else None

    engine = start(wrap=slow)
    request_id = engine.tell(RegisterAdapter("one", "a", str(files["a"]), "registration"))
    engine.step()
    assert request_id not in engine.replies
    (reply,) = [reply for _, reply in engine.adapters.stop()]
    assert engine.adapters.is_reading, "the process ends without it"
    may_read.set()
    assert refusal(reply)[0] is AdapterErrorCode.DRAINING


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_prepared_beside_the_loop(
    start: Start, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What takes long is done when an adapter is read; a slot gets the result, again after an eviction too."""
    engine = start(kind, max_adapters=1)
    runner, made, loop = engine.core.runner, [], get_ident()
    prepare, load, loaded_ones = runner.prepare_adapter, runner.load_adapter, []

    def watched(adapter: Adapter) -> Adapter:
        assert get_ident() != loop
        made.append(prepare(adapter))
        return made[-1]

    def watched_load(slot: int, adapter: Adapter) -> None:
        loaded_ones.append(adapter)
        load(slot, adapter)

    monkeypatch.setattr(runner, "prepare_adapter", watched)
    monkeypatch.setattr(runner, "load_adapter", watched_load)
    engine.register("a", files["a"])
    engine.register("b", files["b"])
    answers(engine, "b", "a")
    assert len(made) == 2
    assert len(loaded_ones) > 2
    assert all(any(each is one for one in made) for each in loaded_ones)
