"""The log of a collector that does not take spans: one line in 30 s, however many spans are lost."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("container.traces")

_INTERVAL_S = 30.0
_EXPORTERS = "opentelemetry.exporter"


class FailureLog:
    """Collects the reasons that OpenTelemetry's exporters log for each batch and each try, and shows the last."""

    def __init__(self) -> None:
        self._reason = _LastReason()
        exporters = logging.getLogger(_EXPORTERS)
        exporters.addHandler(self._reason)
        exporters.propagate = False
        self._num_lost = 0
        self._due_s = 0.0

    def lost(self, number: int) -> None:
        """So many spans more were lost."""
        self._num_lost += number
        now = time.monotonic()
        if now >= self._due_s:
            self._due_s = now + _INTERVAL_S
            logger.warning("%d spans could not be sent: %s", self._num_lost, self._reason.text)
            self._num_lost = 0


class _LastReason(logging.Handler):
    """Keeps the last message."""

    text = "the exporter did not say why"

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
