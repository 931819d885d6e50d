"""Takes spans from the web workers and hands them to the SDK, until SIGTERM; then sends what is left, in 1.5 s."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from container.monitoring.tracing.exporter.collector import Collector
from container.monitoring.tracing.exporter.receiver import Receiver
from container.settings import Settings
from handler.seam.lifeline import die_with_parent
from handler.seam.logs import configure_logging

logger = logging.getLogger("container.traces")

_FLUSH_S = 1.2


def main(path: Path) -> None:
    """Run until SIGTERM."""
    die_with_parent(signal.SIGTERM)
    settings = Settings.from_environ(os.environ)
    configure_logging("traces", level=settings.log_level, as_json=settings.json_output)
    receiver = Receiver(path)
    signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
    collector = Collector()
    logger.info("traces go to %s by %s", collector.address, collector.protocol)
    for span in receiver.spans():
        collector.take(span)
    collector.close(_FLUSH_S)
    receiver.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # An export that hangs would be waited for.
    logging.shutdown()
    os._exit(0)
