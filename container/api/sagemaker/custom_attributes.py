"""`X-Amzn-SageMaker-Custom-Attributes`: echoed, and searched for `route=/v1/...`, AWS's own convention."""

from __future__ import annotations

import re

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"

_ROUTE = re.compile(r"(?:^|[,;\s])route=(/[^\s,;]*)")


def route_of(attributes: str) -> str | None:
    """The path that /invocations should stand for, None if the caller names none."""
    found = _ROUTE.search(attributes)
    return found[1] if found else None
