"""How many spans were sent, and how many were lost where. They exist, at zero, without tracing too."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

# No room in the exporter's queue; no room towards the exporter process; the collector did not take them.
QUEUE_FULL, NO_EXPORTER, EXPORT_FAILED = "queue_full", "no_exporter", "export_failed"
_LOSSES = (QUEUE_FULL, NO_EXPORTER, EXPORT_FAILED)

_registry = CollectorRegistry()
_sent = Counter("heir_spans_exported", "Spans that the collector took.", registry=_registry)
_lost = Counter("heir_spans_dropped", "Spans that were lost, by reason.", ["reason"], registry=_registry)
for _loss in _LOSSES:
    _lost.labels(_loss)


def count_exported(number: int) -> None:
    """Count spans that the collector took."""
    _sent.inc(number)


def count_dropped(reason: str, number: int = 1) -> None:
    """Count spans that were lost; `reason` is one of this module's three."""
    _lost.labels(reason).inc(number)
