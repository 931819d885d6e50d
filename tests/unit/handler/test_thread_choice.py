"""The number of threads follows what steps take: made-up machines, where a step's time is a function of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from handler.engine.thread_choice import ThreadChoice


def quiet(threads: int) -> float:
    return 0.013 / min(threads, 2) ** 0.7


def contended(threads: int) -> float:
    """Two threads wait for each other's core."""
    return 0.013 if threads == 1 else 0.03


def small(_threads: int) -> float:
    return 0.002 * _threads


def shares(choice: ThreadChoice, seconds: float, step_s: Callable[[int], float], num_tokens: int = 1) -> Counter[int]:
    """Parts of the time by number of threads."""
    spent: Counter[int] = Counter()
    while sum(spent.values()) < seconds:
        number = choice.choose(num_tokens)
        spent[number] += step_s(number)
        choice.observe(num_tokens, step_s(number))
    return Counter({number: part / sum(spent.values()) for number, part in spent.items()})


def test_a_quiet_machine_keeps_all_threads() -> None:
    choice = ThreadChoice(2)
    assert shares(choice, 60, quiet)[2] > 0.98
    assert shares(choice, 60, quiet)[2] > 0.99, "trials that fail become rare"


def test_a_neighbour_comes_and_goes() -> None:
    choice = ThreadChoice(2)
    for _ in range(3):
        shares(choice, 20, quiet)
        shares(choice, 3, contended)
        assert shares(choice, 10, contended)[1] > 0.85
        shares(choice, 3, quiet)
        assert shares(choice, 10, quiet)[2] > 0.95


def test_trials_of_long_steps_take_a_small_part_of_the_time() -> None:
    choice = ThreadChoice(2)
    shares(choice, 60, lambda threads: 10 * contended(threads))
    assert shares(choice, 120, lambda threads: 10 * contended(threads))[1] > 0.9


@pytest.mark.parametrize(("most", "best"), [(64, 8), (64, 64), (6, 3), (3, 1), (1, 1)])
def test_the_best_number_is_found(most: int, best: int) -> None:
    choice = ThreadChoice(most)
    steps = [lambda n: 0.01 * (best / n if n < best else n / best)]
    shares(choice, 60, steps[0])
    assert shares(choice, 30, steps[0])[best] > 0.8


def test_sizes_are_apart_and_a_new_one_starts_where_the_last_is() -> None:
    choice = ThreadChoice(2)
    shares(choice, 30, small, 1)
    assert shares(choice, 5, small, 1)[1] > 0.8
    assert choice.choose(256) == 1
    shares(choice, 30, quiet, 256)
    assert choice.choose(256) == 2
    assert shares(choice, 5, small, 1)[1] > 0.8
