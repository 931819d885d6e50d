"""Removes everything that a deployment created: found by tag, in the order SageMaker requires, safe to repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.aws.autoscaling import remove_scaling
from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.rollback import alarm_name
from sagemaker_deploy.aws.waiting import (
    Waiter,
    describe_component,
    describe_endpoint,
    hosts_components,
    is_adapter,
    is_missing,
)
from sagemaker_deploy.progress import Clock, Progress, Silent
from sagemaker_deploy.request.spec import ENDPOINT_TAG

REMOVAL_LIMIT_S = 1800.0


def delete(
    name: str, clients: Clients, progress: Progress | None = None, *, clock: Clock | None = None, ours_only: bool = True
) -> list[str]:
    """Remove scaling, alarms, components, endpoint, configurations and models of endpoint `name`; return their names.

    Removes only resources tagged by this helper, unless `ours_only` is False. Weights in S3, logs, role and image stay.
    Missing resources are skipped, so running it again completes an interrupted removal.
    """
    removal = _Removal(name, clients, progress or Silent(), clock)
    removal.scaling_and_alarms()
    removal.components(ours_only)
    removal.endpoint(ours_only)
    for kind in _KINDS:
        removal.leftovers(*kind)
    return removal.removed


def delete_config(config_name: str, clients: Clients, endpoint: str) -> None:
    """Delete the endpoint configuration if it exists and has the tag of `endpoint`."""
    kind = ("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName", "EndpointConfigArn")
    if config_name in list(tagged_names(clients, *kind, endpoint)):
        clients.sagemaker.delete_endpoint_config(EndpointConfigName=config_name)


def tagged_names(
    clients: Clients, list_operation: str, items: str, name_key: str, arn_key: str, endpoint: str
) -> Iterator[str]:
    """Yield the names of resources that have the tag of `endpoint`, from one of SageMaker's list operations."""
    for page in clients.sagemaker.get_paginator(list_operation).paginate(NameContains=endpoint):
        for item in page[items]:
            if item[name_key].startswith(endpoint) and is_ours(clients, item[arn_key], endpoint):
                yield item[name_key]


def is_ours(clients: Clients, arn: str, endpoint: str) -> bool:
    """True if the resource has the tag that this helper sets for `endpoint`."""
    try:
        tags = clients.sagemaker.list_tags(ResourceArn=arn)["Tags"]
    except ClientError as exc:
        if is_missing(exc):
            return False
        raise
    return {"Key": ENDPOINT_TAG, "Value": endpoint} in tags


# (list operation, list in its answer, name, ARN, delete operation), dependants first.
_KINDS = (
    (
        "list_endpoint_configs",
        "EndpointConfigs",
        "EndpointConfigName",
        "EndpointConfigArn",
        "delete_endpoint_config",
    ),
    ("list_models", "Models", "ModelName", "ModelArn", "delete_model"),
)


class _Removal:
    def __init__(self, name: str, clients: Clients, progress: Progress, clock: Clock | None) -> None:
        self._name = name
        self._clients = clients
        self._progress = progress
        self._waiter = Waiter(clients, progress, REMOVAL_LIMIT_S, clock)
        self.removed: list[str] = []

    def scaling_and_alarms(self) -> None:
        """Remove these first: alarms and scalable targets silently outlive their endpoint."""
        for what in remove_scaling(self._name, self._clients):
            self._done("scaling", what)
        alarms = [alarm_name(self._name)]
        found = self._clients["cloudwatch"].describe_alarms(AlarmNames=alarms)["MetricAlarms"]
        if found:
            self._clients["cloudwatch"].delete_alarms(AlarmNames=alarms)
            self._done("alarm", alarms[0])

    def components(self, ours_only: bool) -> None:
        """Remove components, because an endpoint with components cannot be deleted; adapters before their base."""
        sagemaker = self._clients.sagemaker
        if not hosts_components(self._clients, describe_endpoint(self._clients, self._name)):
            return
        pages = sagemaker.get_paginator("list_inference_components").paginate(EndpointNameEquals=self._name)
        for item in self._adapters_first([item for page in pages for item in page["InferenceComponents"]]):
            component = item["InferenceComponentName"]
            if ours_only and not is_ours(self._clients, item["InferenceComponentArn"], self._name):
                self._progress.warn(f"inference component {component} is not ours and stays")
                continue
            self._call(sagemaker.delete_inference_component, "inference component", InferenceComponentName=component)
            self._waiter.component(component, self._name)

    def _adapters_first(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """SageMaker does not delete a component that others are based on."""
        if len(items) < 2:
            return items
        found = [(describe_component(self._clients, item["InferenceComponentName"]), item) for item in items]
        return [item for _, item in sorted(found, key=lambda each: not is_adapter(each[0]))]

    def endpoint(self, ours_only: bool) -> None:
        """Wait until the endpoint is stable, because SageMaker does not delete a changing one; then delete it."""
        description = self._waiter.endpoint(self._name)
        if description is None:
            return
        if ours_only and not is_ours(self._clients, description["EndpointArn"], self._name):
            self._progress.warn(f"endpoint {self._name} was not made by this helper and stays")
            return
        self._call(self._clients.sagemaker.delete_endpoint, "endpoint", EndpointName=self._name)
        self._waiter.endpoint(self._name)

    def leftovers(self, list_operation: str, items: str, name_key: str, arn_key: str, operation: str) -> None:
        delete_one = getattr(self._clients.sagemaker, operation)
        for name in list(tagged_names(self._clients, list_operation, items, name_key, arn_key, self._name)):
            self._call(delete_one, operation.removeprefix("delete_").replace("_", " "), **{name_key: name})

    def _call(self, operation: Callable[..., Any], what: str, **name: str) -> None:
        try:
            operation(**name)
        except ClientError as exc:
            if not is_missing(exc):
                raise
        else:
            self._done(what, *name.values())

    def _done(self, what: str, name: str) -> None:
        self.removed.append(name)
        self._progress.step(f"{what} {name} deleted")
