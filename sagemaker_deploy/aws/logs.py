"""The container's log in CloudWatch: the last lines of an endpoint or of its inference component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.errors import PreflightError
from sagemaker_deploy.request.requests import component_name

_STREAMS = 4


@dataclass(frozen=True)
class LogLine:
    """One line. `time_ms` is Unix time in milliseconds, `stream` names variant and instance."""

    time_ms: int
    stream: str
    text: str


def last_lines(logs: Any, endpoint_name: str, limit: int = 40) -> list[LogLine]:
    """Return the last lines, at most `limit`, oldest first; empty if the container has written nothing yet.

    Raises `PreflightError` if the caller may not read them.
    """
    lines: list[LogLine] = []
    for group in log_groups(endpoint_name):
        for stream in _latest_streams(logs, group):
            lines += _stream_tail(logs, group, stream, limit)
    return sorted(lines, key=lambda line: line.time_ms)[-limit:]


def log_groups(endpoint_name: str) -> tuple[str, str]:
    """Return the two groups that SageMaker may write: the endpoint's and its inference component's."""
    component = component_name(endpoint_name)
    return f"/aws/sagemaker/Endpoints/{endpoint_name}", f"/aws/sagemaker/InferenceComponents/{component}"


def _latest_streams(logs: Any, group: str) -> list[str]:
    """The latest streams, without the `data-log` streams that asynchronous endpoints write for each instance."""
    try:
        reply = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=_STREAMS)
    except ClientError as exc:
        if exc.response["Error"]["Code"] == "ResourceNotFoundException":
            return []
        raise PreflightError(f"the logs could not be read: {exc}") from exc
    names = [stream["logStreamName"] for stream in reply["logStreams"]]
    return [name for name in names if not name.endswith("/data-log")]


def _stream_tail(logs: Any, group: str, stream: str, limit: int) -> list[LogLine]:
    reply = logs.get_log_events(logGroupName=group, logStreamName=stream, limit=limit, startFromHead=False)
    return [LogLine(event["timestamp"], stream, event["message"].rstrip()) for event in reply["events"]]
