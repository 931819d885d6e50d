"""Real boto3 clients whose answers are scripted by botocore's Stubber, for what moto does not implement."""

from __future__ import annotations

import datetime
import json
from typing import Any

import boto3
from botocore.stub import Stubber

from sagemaker_deploy.request.spec import ENDPOINT_TAG

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
ARN = "arn:aws:sagemaker:us-east-1:123456789012:endpoint/llm"
OURS = {"Tags": [{"Key": ENDPOINT_TAG, "Value": "llm"}]}


_SESSION = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name="us-east-1")


class Script:
    """A client and its script; Stubber checks every call's name and parameters against the service model."""

    def __init__(self, service: str) -> None:
        self.client = _SESSION.client(service)
        self._stubber = Stubber(self.client)
        self._stubber.activate()

    def answer(self, operation: str, reply: dict[str, Any], expected: dict[str, Any] | None = None) -> Script:
        """Script a success; `expected` pins the parameters."""
        self._stubber.add_response(operation, reply, expected)
        return self

    def refuse(self, operation: str, code: str, message: str, status: int = 400) -> Script:
        """Script an error."""
        self._stubber.add_client_error(operation, code, message, status)
        return self

    def missing(self, operation: str) -> Script:
        """Script SageMaker's way of saying that there is nothing of that name."""
        return self.refuse(operation, "ValidationException", 'Could not find "arn:aws:sagemaker:…".')

    def endpoint(self, status: str, config: str, **more: Any) -> Script:
        """Script a DescribeEndpoint."""
        reply = {
            "EndpointName": "llm",
            "EndpointArn": ARN,
            "EndpointConfigName": config,
            "EndpointStatus": status,
            "CreationTime": NOW,
            "LastModifiedTime": NOW,
        }
        return self.answer("describe_endpoint", {**reply, **more})

    def finished(self) -> None:
        """Assert that the whole script was used."""
        self._stubber.assert_no_pending_responses()


def recorder(client: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return a list that fills with (operation, parameters as sent) of every call of `client`."""
    seen: list[tuple[str, dict[str, Any]]] = []

    def keep(params: dict[str, Any], model: Any, **_: Any) -> None:
        seen.append((model.name, json.loads(params["body"] or b"{}")))

    client.meta.events.register("before-call", keep)
    return seen
