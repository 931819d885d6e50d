"""`X-Amzn-SageMaker-Custom-Attributes`: echoed, and searched for `route=/v1/...`, AWS's own convention,
and `adapter=NAME`, that of LMI (https://docs.djl.ai/master/docs/serving/serving/docs/adapters.html).

SageMaker hands on no other header of the caller, `traceparent` among them; AWS names trace ids as a use of this one
(https://aws.amazon.com/blogs/machine-learning/amazon-sagemaker-runtime-now-supports-the-customattribute-header/).
"""

from __future__ import annotations

import re

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"

_ROUTE = re.compile(r"(?:^|[,;\s])route=(/[^\s,;]*)")
_ADAPTER = re.compile(r"(?:^|[,;\s])adapter\s*=\s*([^\s,;]+)", re.IGNORECASE)
_TRACEPARENT = re.compile(r"(?:^|[,;\s])traceparent=([^\s,;]+)")


def route_of(attributes: str) -> str | None:
    """The path that /invocations should stand for, None if the caller names none."""
    found = _ROUTE.search(attributes)
    return found[1] if found else None


def adapter_of(attributes: str) -> str | None:
    """The adapter that the caller names in LMI's way, None if it names none."""
    found = _ADAPTER.search(attributes)
    return found[1] if found else None


def traceparent_of(attributes: str) -> str | None:
    """What the caller gives as W3C's `traceparent`, unchecked; None if it gives none."""
    found = _TRACEPARENT.search(attributes)
    return found[1] if found else None
