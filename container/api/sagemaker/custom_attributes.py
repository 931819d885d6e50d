"""`X-Amzn-SageMaker-Custom-Attributes`: echoed, and read for `route=/v1/...`, AWS's own convention."""

from __future__ import annotations

import re

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"

_ROUTE = re.compile(r"(?:^|[,;\s])route=(/[^\s,;]*)")


def route_of(attributes: str) -> str | None:
    """The path the caller wants /invocations to stand for, if any."""
    found = _ROUTE.search(attributes)
    return found[1] if found else None
