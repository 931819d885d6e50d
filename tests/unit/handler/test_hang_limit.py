"""What a step may take, from what others took."""

from __future__ import annotations

from handler.engine.hang_limit import FACTOR, HangLimit


def test_nothing_known_limits_nothing() -> None:
    assert HangLimit().limit_s(256) == 0.0


def test_a_size_that_never_ran_is_judged_by_the_nearest() -> None:
    limit = HangLimit()
    limit.observe(8, 0.5)
    assert limit.limit_s(8) == FACTOR * 0.5
    assert limit.limit_s(256) == FACTOR * 0.5 * 32, "a large model's first long prompt is no hang"
    assert limit.limit_s(1) == FACTOR * 0.5


def test_many_quick_decodes_do_not_shorten_what_a_prompt_may_take() -> None:
    limit = HangLimit()
    limit.observe(256, 100.0)
    for _ in range(10_000):
        limit.observe(1, 3.0)
    assert limit.limit_s(256) == FACTOR * 100.0
    assert limit.limit_s(1) == FACTOR * 3.0


def test_an_outlier_is_forgotten() -> None:
    limit = HangLimit()
    limit.observe(4, 60.0)
    for _ in range(1000):
        limit.observe(4, 0.1)
    assert limit.limit_s(4) == FACTOR * 0.1
