"""An endpoint's status: state, instances, scaling, and failure with its known cause."""

from __future__ import annotations

from typing import Any

from sagemaker_deploy.aws.autoscaling import scalable_targets
from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.waiting import describe_component, describe_endpoint, hosts_components
from sagemaker_deploy.errors import PreflightError
from sagemaker_deploy.failures import explain
from sagemaker_deploy.request.requests import component_name


def endpoint_status(name: str, clients: Clients) -> dict[str, Any]:
    """Return a JSON-ready summary. Raises `PreflightError` if there is no such endpoint."""
    endpoint = describe_endpoint(clients, name)
    if endpoint is None:
        raise PreflightError(f"there is no endpoint {name} in {clients.region}")
    summary: dict[str, Any] = {
        "endpoint": name,
        "status": endpoint["EndpointStatus"],
        "configuration": endpoint.get("EndpointConfigName", ""),
        "variants": [_variant(variant) for variant in endpoint.get("ProductionVariants", ())],
        "scaling": _scaling(name, clients),
    }
    _add_failure(summary, endpoint.get("FailureReason"))
    if hosts_components(clients, endpoint):
        summary["component"] = _component(name, clients)
    return summary


def _variant(variant: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": variant["VariantName"],
        "instances": variant.get("CurrentInstanceCount"),
        "wanted": variant.get("DesiredInstanceCount"),
        "images": [image.get("ResolvedImage") for image in variant.get("DeployedImages", ())],
        "states": [state["Status"] for state in variant.get("VariantStatus", ())],
    }


def _component(name: str, clients: Clients) -> dict[str, Any] | None:
    component = describe_component(clients, component_name(name))
    if component is None:
        return None
    copies = component.get("RuntimeConfig", {})
    summary = {
        "name": component["InferenceComponentName"],
        "status": component.get("InferenceComponentStatus"),
        "copies": copies.get("CurrentCopyCount"),
        "wanted": copies.get("DesiredCopyCount"),
    }
    _add_failure(summary, component.get("FailureReason"))
    return summary


def _scaling(name: str, clients: Clients) -> list[dict[str, Any]]:
    return [
        {"of": target["ResourceId"], "minimum": target["MinCapacity"], "maximum": target["MaxCapacity"]}
        for target in scalable_targets(name, clients)
    ]


def _add_failure(summary: dict[str, Any], reason: str | None) -> None:
    if reason:
        known = explain(reason)
        summary |= {
            "failure": reason,
            "cause": known.cause if known else "",
            "remedy": known.remedy if known else "",
        }
