"""Whom an engine's death is blamed on, and whom no more."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from handler.engine.in_flight import InFlight
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import ErrorCode, GenerateRequest, SamplingParams
from handler.seam.status import StatusBoard
from handler.seam.suspects import Hazards, Suspects, fingerprint


def request(*token_ids: int, seed: int = 0, request_id: str = "a", **sampling: object) -> GenerateRequest:
    params = SamplingParams(max_tokens=5, seed=seed, **sampling)  # type: ignore[arg-type]
    return GenerateRequest(request_id, list(token_ids), params, 1.0)


def test_a_fingerprint_is_that_of_the_work_not_of_the_try() -> None:
    one = fingerprint(request(1, 2, seed=3))
    assert one == fingerprint(request(1, 2, seed=4, request_id="b"))
    others = [request(1, 3), request(1, 2, temperature=0.5), request(1, 2, logit_bias={1: 2.0})]
    others.append(msgspec.structs.replace(request(1, 2), cache_salt="x"))
    assert len({one, 0, *map(fingerprint, others)}) == 6


class Case:
    """An engine's `InFlight`, and PID 1 beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hazards = Hazards(directory / "hazards", create=True)
        self.suspects = Suspects(directory / "suspects", create=True)
        self.board = StatusBoard(directory / "board", create=True)
        self.start()

    def start(self) -> None:
        files = Hazards(self.directory / "hazards"), Suspects(self.directory / "suspects")
        self.in_flight = InFlight(self.board, *files)

    def take(self, *token_ids: int) -> Sequence:
        seq = Sequence(request(*token_ids), b"", 0.0, 1.0)
        self.in_flight.identify(seq)
        return seq

    def die_with(self, *seqs: Sequence) -> None:
        with pytest.raises(KeyboardInterrupt), self.in_flight.running(batch(*seqs)):
            raise KeyboardInterrupt
        self.suspects.record_deaths(self.hazards.take())
        self.start()


def batch(*seqs: Sequence) -> ScheduledBatch:
    return ScheduledBatch([ScheduledSequence(seq, 0, len(seq.token_ids)) for seq in seqs])


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_only_what_ran_is_blamed_and_only_twice_is_guilty(case: Case) -> None:
    case.die_with(case.take(1), case.take(2))
    assert case.in_flight.refusal(request(1)) is None
    assert [case.take(i).suspect for i in (1, 2, 3)] == [True, True, False]
    case.die_with(case.take(1))
    refusal = case.in_flight.refusal(request(1, request_id="again"))
    assert refusal is not None
    assert (refusal.request_id, refusal.code) == ("again", ErrorCode.INTERNAL)
    assert case.in_flight.refusal(request(2)) is None


def test_what_survived_is_not_blamed(case: Case) -> None:
    with case.in_flight.running(batch(case.take(1))):
        pass
    assert case.hazards.take() == {}


def test_a_suspect_runs_alone_and_is_acquitted_when_it_finishes(case: Case) -> None:
    case.die_with(case.take(1), case.take(2))
    one, two, three, four = (case.take(i) for i in (1, 2, 3, 4))
    parts = case.in_flight.parts(batch(three, one, four, two))
    assert [[item.seq for item in part.items] for part in parts] == [[three, four], [one], [two]]
    assert [len(part.items) for part in case.in_flight.parts(batch(one))] == [1]
    case.in_flight.finished(one)
    assert not case.take(1).suspect
    case.die_with(case.take(1))
    assert case.in_flight.refusal(request(1)) is None, "an acquitted suspect begins anew"


def test_past_the_place_of_the_death_a_suspect_joins_the_others(case: Case) -> None:
    case.die_with(case.take(1, 2, 3), case.take(4))
    one, two = case.take(1, 2, 3), case.take(5)
    for start, alone in ((0, True), (2, True), (3, False), (9, False)):
        items = [ScheduledSequence(one, start, 1), ScheduledSequence(two, 0, 1)]
        assert len(case.in_flight.parts(ScheduledBatch(items))) == (2 if alone else 1)
    assert one.suspect, "a second death counts all the same"


def test_a_grammar_that_kills_the_compiler_is_blamed(case: Case) -> None:
    seq = case.take(1)
    case.in_flight.compiling(seq, True)
    assert case.hazards.take() == {seq.fingerprint: 0}
    case.in_flight.compiling(seq, True)
    case.in_flight.compiling(seq, False)
    assert case.hazards.take() == {}


def test_the_oldest_suspects_give_way(case: Case) -> None:
    for i in range(1, 2000):
        case.suspects.record_deaths({i: 5})
    assert case.suspects.find(1) == (0, 0)
    assert case.suspects.find(1999) == (1, 5)
