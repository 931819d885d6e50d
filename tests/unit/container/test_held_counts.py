"""Counts of every token that are held back: nothing is lost, and nothing is counted twice."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

from container.monitoring.metrics import HeldHistogram


def samples(registry: CollectorRegistry) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name, sample.labels, sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    ]


def test_held_observations_are_those_of_a_histogram_once_flushed() -> None:
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    held = HeldHistogram("gap", "Gaps.", buckets=[0.5, 1.0, 2.0], registry=mine)
    plain = Histogram("gap", "Gaps.", buckets=[0.5, 1.0, 2.0], registry=theirs)
    empty = samples(theirs)
    for seconds in (0.25, 0.5, 0.75, 1.0, 2.0, 4.0):
        held.hold(seconds)
        plain.observe(seconds)
    assert samples(mine) == empty
    for _ in range(2):
        held.flush()
        assert samples(mine) == samples(theirs)
    held.hold(1.5)
    plain.observe(1.5)
    held.flush()
    assert samples(mine) == samples(theirs)
