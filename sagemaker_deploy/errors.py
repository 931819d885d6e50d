"""Errors of the helper.

    DeployError
      SpecError          the specification is impossible; nothing was sent
      PreflightError     AWS would refuse, or the endpoint would never start; nothing was created
      EndpointFailed     SageMaker gave up; has the container's last log lines, cause and remedy
        RolledBack       an update failed, the previous version serves again
      WaitExpired        not in service within the time limit; nothing was removed
      InvokeError        a call reached the platform and failed
        ContainerError   the container answered 4xx or 5xx, or sent an error event in a stream
        StreamBroken     the stream ended before the answer was complete

botocore's `ClientError` propagates where no better message is known.
"""

from __future__ import annotations

from collections.abc import Sequence


class DeployError(Exception):
    """Base of all errors. `str()` is one sentence; `remedy` says what to do, "" if unknown."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class SpecError(DeployError, ValueError):
    """A field of the specification is missing, malformed or conflicts with another."""


class PreflightError(DeployError):
    """A check before the first creating call found that the deployment would fail."""


class EndpointFailed(DeployError):
    """The endpoint did not start. `log_lines` are the container's last log lines, oldest first."""

    def __init__(self, message: str, *, remedy: str = "", log_lines: Sequence[str] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.log_lines = tuple(log_lines)


class RolledBack(EndpointFailed):
    """The update failed and SageMaker returned to the previous configuration."""


class WaitExpired(DeployError):
    """The endpoint is still changing; check again with `status`."""


class InvokeError(DeployError):
    """A call to the endpoint failed."""


class ContainerError(InvokeError):
    """The container answered with an error. `status` is its HTTP status (0: no answer), the message its body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StreamBroken(InvokeError):
    """The connection to the container ended in the middle of an answer."""
