"""What can go wrong between a laptop and a serving endpoint.

    DeployError
      SpecError          the wish itself is impossible; nothing was sent
      PreflightError     AWS was asked and would refuse, or the endpoint would never come up; nothing was made
      EndpointFailed     SageMaker gave up; carries the container's last lines, cause and remedy
        RolledBack       an update failed, the previous version serves again
      WaitExpired        still not in service when the patience ended; nothing was removed
      InvokeError        a call reached the platform and failed
        ContainerError   the container answered 4xx or 5xx, or an error event in a stream
        StreamBroken     the stream ended before the answer did

botocore's `ClientError` passes through where no better sentence is known.
"""

from __future__ import annotations

from collections.abc import Sequence


class DeployError(Exception):
    """Base of all; `str()` is a sentence for a person, `remedy` what to do about it."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class SpecError(DeployError, ValueError):
    """A field of the specification is missing, malformed or in conflict with another."""


class PreflightError(DeployError):
    """A check before the first creating call found a certain failure."""


class EndpointFailed(DeployError):
    """The endpoint did not come up; `log_lines` are the container's last, oldest first."""

    def __init__(self, message: str, *, remedy: str = "", log_lines: Sequence[str] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.log_lines = tuple(log_lines)


class RolledBack(EndpointFailed):
    """The update did not come up and SageMaker went back to the configuration before it."""


class WaitExpired(DeployError):
    """The endpoint is still on its way; look again with `status`."""


class InvokeError(DeployError):
    """A call to the endpoint failed."""


class ContainerError(InvokeError):
    """The container's own refusal: `status` is its HTTP status (0: it did not answer), the text its body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StreamBroken(InvokeError):
    """The connection to the container ended in the middle of an answer."""
