"""Fields that change no answer: taken, and logged once for each process and field."""

from __future__ import annotations

import logging
import re

from container.monitoring.request_record import find_record

logger = logging.getLogger(__name__)

# Clients choose the names, so their number is bounded.
_MAX_LOGGED = 500
_MAX_CHARS = 120
_logged: set[str] = set()


def note_ignored(path: str, why: str) -> None:
    """Log that the field at `path` is ignored; `why` is a clause. Positions in arrays do not count."""
    place = re.sub(r"\[\d+\]", "[]", path)[:_MAX_CHARS]
    if place in _logged or len(_logged) >= _MAX_LOGGED:
        return
    _logged.add(place)
    logger.info("`%s` is ignored: %s", place, why, extra={"fields": {"field": place, **_request_ids()}})


def _request_ids() -> dict[str, str | None]:
    """Those of the first request with the field; none outside of one. A hook's call has its caller's as the second."""
    record = find_record()
    return {} if record is None else {"request_id": record.id, "client_request_id": record.client_id}
