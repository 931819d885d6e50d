"""Whatever a draft model guesses, each request gets the tokens, reasons and log-probabilities that it gets without."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handler.engine.draft_model import DraftRunner
from handler.engine.warm_up import warm_up_sequence
from handler.model.loader import Beside
from handler.runners.limits import bytes_per_token, derive_limits
from handler.runners.paged.runner import PagedRunner
from handler.runners.runner import StepLogits
from handler.runners.trial import Verdict
from handler.sampling.grammar import GrammarCompiler
from handler.scheduling.scheduler import ScheduledBatch
from handler.scheduling.sequence import Sequence
from handler.seam.config import EngineConfig
from handler.seam.errors import BadModel
from handler.seam.status import StatusBoard
from handler.speculation.model_drafter import ModelDrafter
from handler.startup import start
from tests.support import tiny_models
from tests.support.guesses import comparable, differences
from tests.support.local_engine import LocalEngine, limits, loaded
from tests.support.pretend_cuda import gpus_of, pretend_cuda
from tests.support.schedules import engine

pytestmark = pytest.mark.usefixtures("one_thread")


def noisy(deviation: float) -> Any:
    """The served model with noise in its weights."""
    model, generator = tiny_models.build("llama"), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += deviation * torch.randn(parameter.shape, generator=generator)
    return model


# The model, and the least and the most that come true of its guesses in greedy answers.
DRAFTS = {
    "itself": (lambda: tiny_models.build("llama"), 0.99, 1.0),
    "a stranger": (lambda: tiny_models.build("llama", seed=9, num_hidden_layers=1), 0.0, 0.2),
    "with noise": (lambda: noisy(0.02), 0.2, 0.99),
}


class Counted:
    """Whether guesses of an engine came true, while drafts always pay: a step seems to cost the same for any rows."""

    def __init__(self, guessing: LocalEngine) -> None:
        found = guessing.core.scheduler.drafter
        assert isinstance(found, ModelDrafter)
        self.drafter, self.runner = found, found._model
        assert isinstance(self.runner, DraftRunner)
        for num_rows in (1, 200):
            found._times.observe(num_rows, 100.0)
        found._times.observe = lambda num_rows, seconds: None  # type: ignore[method-assign]
        self.num_right = self.num_guesses = 0
        self._observe = found._shares.observe
        found._shares.observe = self.observe  # type: ignore[method-assign]

    def observe(self, at: int, is_right: bool) -> None:
        self.num_guesses += 1
        self.num_right += is_right
        self._observe(at, is_right)

    @property
    def share(self) -> float:
        return self.num_right / max(1, self.num_guesses)


@pytest.mark.parametrize("kind", ["roomy", "reusing, preempting", "paged, preempting"])
@pytest.mark.parametrize("name", DRAFTS)
def test_a_draft_model_changes_nothing(
    name: str, kind: str, tmp_path: Path, solos: dict[str, LocalEngine], grammars: GrammarCompiler
) -> None:
    """Random requests of all kinds, which come, leave and are preempted."""
    make, _, _ = DRAFTS[name]
    guessing = engine(tmp_path / "guessing", kind, grammars, draft=make())
    counted = Counted(guessing)
    try:
        for seed in (2, 3):
            assert differences(guessing, None, solos[guessing.core.runner.name], seed) == []
        assert counted.num_guesses > 20
        assert guessing.core.scheduler.num_preemptions > 0 or "preempting" not in kind
        while not guessing.core.scheduler.idle:  # of requests whose client has left
            guessing.step()
        assert_empty(counted.runner)
    finally:
        guessing.close()


def assert_empty(runner: DraftRunner) -> None:
    """Nothing is held after the end of the last request."""
    assert (runner._copies, runner._lost, runner._num_known, runner._kv.used_tokens) == ({}, set(), {}, 0)


@pytest.mark.parametrize("name", DRAFTS)
def test_steps_bring_as_many_tokens_as_guesses_come_true(
    name: str, tmp_path: Path, solos: dict[str, LocalEngine]
) -> None:
    make, least, most = DRAFTS[name]
    guessing = engine(tmp_path / "guessing", "roomy", draft=make())
    counted = Counted(guessing)
    prompts = [[5, 9, 17], [3, 1, 4, 1, 5] * 20]
    try:
        found = [guessing.submit(prompt, max_tokens=40) for prompt in prompts]
        guessing.run()
        for prompt, outcome in zip(prompts, found, strict=True):
            expected = solos["slots"].submit(prompt, max_tokens=40)
            solos["slots"].run()
            assert comparable(outcome) == comparable(expected)
        assert least <= counted.share <= most
        assert (guessing.core.board["steps"] < 30) == (least > 0.9)
    finally:
        guessing.close()


def plainly(guessing: LocalEngine, solo: LocalEngine, prompts: list[list[int]], max_tokens: int = 40) -> None:
    """All prompts at once get what each gets alone."""
    found = [guessing.submit(prompt, max_tokens=max_tokens) for prompt in prompts]
    while not all(outcome.done for outcome in found):
        guessing.step()
    for prompt, outcome in zip(prompts, found, strict=True):
        expected = solo.submit(prompt, max_tokens=max_tokens)
        solo.run()
        assert comparable(outcome) == comparable(expected)


def test_a_text_beyond_the_draft_models_context_goes_on_alone(tmp_path: Path, solos: dict[str, LocalEngine]) -> None:
    guessing = engine(tmp_path / "guessing", "roomy", draft=tiny_models.build("llama"), max_model_len=32)
    counted = Counted(guessing)
    try:
        plainly(guessing, solos["slots"], [[5, 9, 17], [3, 1, 4, 1, 5] * 20], max_tokens=60)
        # 29 tokens follow the short prompt within 32.
        assert 15 <= counted.num_guesses / 2 <= 30
        assert_empty(counted.runner)
    finally:
        guessing.close()


def test_a_token_that_the_draft_model_does_not_have_ends_its_guesses(
    tmp_path: Path, solos: dict[str, LocalEngine]
) -> None:
    """Embeddings are padded, and a larger model's may have rows for images."""
    small = tiny_models.build("llama", vocab_size=200)
    guessing = engine(tmp_path / "guessing", "roomy", draft=small)
    counted = Counted(guessing)
    try:
        plainly(guessing, solos["slots"], [[5, 9, 17], [5, 250, 17]])
        assert_empty(counted.runner)
    finally:
        guessing.close()


class CountedTokens(list[int]):
    """Tokens of a text that count how many of them are looked at."""

    num_read = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.num_read += len(found) if isinstance(key, slice) else 1
        return found


@pytest.fixture
def guesser(tmp_path: Path) -> Iterator[DraftRunner]:
    guessing = engine(tmp_path / "guessing", "roomy", draft=tiny_models.build("llama", vocab_size=200))
    yield Counted(guessing).runner
    guessing.close()


def text_of(tokens: list[int], guesser: DraftRunner) -> Sequence:
    seq = warm_up_sequence(200, guesser._limits.max_model_len)
    seq.token_ids = tokens
    return seq


def test_no_memory_is_taken_for_a_sequence_that_the_step_has_no_room_for(guesser: DraftRunner) -> None:
    guesser._limits = dataclasses.replace(guesser._limits, max_num_batched_tokens=8)
    first, second = (text_of([5, 9, 17] * 5, guesser) for _ in range(2))
    assert guesser.guess([first, second], [[], []]).num_read == 8
    assert list(guesser._copies) == [first]
    guesser.check_integrity([first, second])


def test_a_text_that_waits_for_memory_is_looked_through_once(
    guesser: DraftRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesser._kv, "allocate", lambda seq: False)
    tokens = CountedTokens([5, 9, 17] * 20)
    seq = text_of(tokens, guesser)
    for _ in range(10):
        assert guesser.guess([seq], [[]]).guesses == [None]
        tokens.append(5)
    assert tokens.num_read < 2 * len(tokens)
    guesser.forget(seq)
    guesser.check_integrity([])


def test_a_token_of_a_larger_vocabulary_is_found_in_an_answer_too(
    guesser: DraftRunner, caplog: pytest.LogCaptureFixture
) -> None:
    seq = text_of([5, 9, 17], guesser)
    assert guesser.guess([seq], [[]]).guesses != [None]
    seq.token_ids.append(250)
    assert guesser.num_unread(seq) == 1
    assert guesser.guess([seq], [[]]).guesses == [None]
    assert guesser.num_unread(seq) is None
    assert "failed" not in caplog.text


class Broken:
    """A draft model whose every third pass fails, in one way or the other."""

    def __init__(self, runner: Any, error: Exception | None) -> None:
        self._real, self._error, self.num_passes = runner.run, error, 0

    def __call__(self, batch: ScheduledBatch) -> StepLogits:
        self.num_passes += 1
        found = self._real(batch)
        if self.num_passes % 3:
            return found
        if self._error is not None:
            raise self._error
        return StepLogits(torch.full_like(found.logits, float("nan")), found.samples)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no"), torch.OutOfMemoryError("no"), None],
    ids=["an error", "out of memory", "not a number"],
)
@pytest.mark.parametrize("kind", ["reusing", "paged"])
def test_a_draft_model_that_fails_fails_no_request(
    kind: str, error: Exception | None, tmp_path: Path, solos: dict[str, LocalEngine]
) -> None:
    guessing = engine(tmp_path / "guessing", kind, draft=tiny_models.build("llama"))
    counted = Counted(guessing)
    broken = counted.runner.runner.run = Broken(counted.runner.runner, error)
    try:
        for _ in range(2):
            found = [guessing.submit(prompt) for prompt in ([5, 9, 17], [3, 1, 4])]
            guessing.run()
            solo = solos[guessing.core.runner.name]
            for prompt, outcome in zip(([5, 9, 17], [3, 1, 4]), found, strict=True):
                expected = solo.submit(prompt)
                solo.run()
                assert (outcome.token_ids, outcome.error) == (expected.token_ids, None)
        assert broken.num_passes >= 3
        assert_empty(counted.runner)
    finally:
        guessing.close()


def test_a_suspect_is_not_guessed_and_a_death_in_a_guess_is_told(tmp_path: Path) -> None:
    """A pass of the draft model names who is in flight, as a step does."""
    guessing = engine(tmp_path / "guessing", "roomy", draft=tiny_models.build("llama"))
    counted = Counted(guessing)
    published: list[int] = []
    in_flight: Any = counted.runner._in_flight
    real = in_flight.running
    in_flight.running = lambda batch: (published.append(len(batch.items)), real(batch))[1]
    try:
        guessing.submit([5, 9, 17], max_tokens=20)
        guessing.step()
        (seq,) = guessing.core.scheduler.running
        seq.alone_until = 10
        while len(seq.token_ids) <= 10:
            guessing.step()
        assert not published
        guessing.run()
        assert published
    finally:
        guessing.close()


def test_graphs_of_both_models_on_a_gpu(tmp_path: Path) -> None:
    """On a pretended GPU: the guesses of a model for itself come true there too, by graphs."""
    with pretend_cuda(gpus_of("A10G")):
        bounds, engines = limits(page_size=256, capacity_tokens=4096), []
        runners = [PagedRunner(loaded(tiny_models.build("llama").to("cuda", torch.bfloat16)), bounds) for _ in range(3)]
        for found in runners:
            found.prove()
            assert found.graphs
        for name, draft in (("solo", None), ("guessing", (runners[2], bounds))):
            (tmp_path / name).mkdir()
            runner = runners[len(engines)]
            engines.append(LocalEngine(runner, bounds, tmp_path / name, draft=draft))
        solo, guessing = engines
        counted = Counted(guessing)
        replays: list[int] = []
        graphs: Any = runners[2].graphs
        replay = graphs.replay
        graphs.replay = lambda shape: (replays.append(shape.num_decodes), replay(shape))[1]
        try:
            plainly(guessing, solo, [[5, 9, 17], [3, 1, 4]], max_tokens=12)
            assert replays
            assert counted.num_right > 10
            assert_empty(counted.runner)
        finally:
            for each in engines:
                each.close()


def config_of(tmp_path: Path, served: Path, draft: Path, **changes: Any) -> EngineConfig:
    return EngineConfig(
        model=str(served),
        draft_model=str(draft),
        num_draft_tokens=4,
        cache_dir=str(tmp_path),
        socket_path=str(tmp_path / "socket"),
        num_threads=1,
        **changes,
    )


def test_a_start_with_a_draft_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    served = tiny_models.save("llama", tmp_path / "served")
    draft = tiny_models.save("qwen2", tmp_path / "draft", max_position_embeddings=64)
    board = StatusBoard(tmp_path / "board", create=True)
    core, card = start(config_of(tmp_path, served, draft, max_model_len=128), board)
    try:
        drafter = core.scheduler.drafter
        assert isinstance(drafter, ModelDrafter)
        assert isinstance(drafter._model, DraftRunner)
        assert drafter._model._limits.max_model_len == 64
        assert drafter._model._limits.capacity_tokens == card.kv_capacity_tokens
        assert card.num_draft_tokens == 4
        assert "draft model" in caplog.text
        assert board["self_test"] == Verdict.PASSED
    finally:
        core.socket.close()


def test_keys_of_the_draft_model_count(tmp_path: Path) -> None:
    """They are kept for as many tokens as the served model's."""
    served, draft = (loaded(tiny_models.build("llama", num_hidden_layers=layers)) for layers in (2, 1))
    both = dataclasses.replace(served, beside=Beside(bytes_per_token(draft)))
    alone, shared = (derive_limits(EngineConfig(), each) for each in (served, both))
    assert shared.capacity_tokens == pytest.approx(alone.capacity_tokens * 2 / 3, rel=0.1)


@pytest.mark.parametrize(
    ("family", "tokens", "says"),
    [
        ("llama", 200, "has another vocabulary than"),
        ("mamba", 0, "SPECULATIVE_MODEL=.*cannot take back"),
    ],
)
def test_what_cannot_guess_ends_the_start(family: str, tokens: int, says: str, tmp_path: Path) -> None:
    served = tiny_models.save("llama", tmp_path / "served")
    draft = tiny_models.save(family, tmp_path / "draft")
    if tokens:
        file = draft / "tokenizer.json"
        values = json.loads(file.read_text())
        vocabulary = values["model"]["vocab"]
        values["model"]["vocab"] = {token: 255 - token_id for token, token_id in vocabulary.items()}
        file.write_text(json.dumps(values))
    with pytest.raises(BadModel, match=says) as refused:
        start(config_of(tmp_path, served, draft), StatusBoard(tmp_path / "board", create=True))
    assert str(draft) in str(refused.value)


def test_without_drafts_the_draft_model_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = tiny_models.save("mamba", tmp_path / "served")
    draft = tiny_models.save("llama", tmp_path / "draft")
    core, card = start(config_of(tmp_path, served, draft), StatusBoard(tmp_path / "board", create=True))
    core.socket.close()
    assert core.scheduler.drafter is None
    assert card.num_draft_tokens == 0
    assert "SPECULATE=4 has no effect" in caplog.text
