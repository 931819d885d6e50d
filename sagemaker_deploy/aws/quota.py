"""The account's quota for an instance type."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError


def endpoint_quota(service_quotas: Any, instance_type: str) -> float | None:
    """Return how many instances of this type endpoints may use; None if unlisted or not readable by the caller.

    The quotas are named "<type> for endpoint usage"; those of GPU types start at 0.
    """
    wanted = f"{instance_type} for endpoint usage"
    try:
        for page in service_quotas.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker"):
            for quota in page["Quotas"]:
                if quota["QuotaName"] == wanted:
                    return float(quota["Value"])
    except (ClientError, BotoCoreError):
        return None
    return None


def quota_warning(quota: float | None, instance_type: str, count: int) -> str | None:
    """Return a warning if `count` instances exceed the quota, else None."""
    if quota is None or count <= quota:
        return None
    return (
        f"the quota for {instance_type} endpoints is {quota:.0f} and {count} are requested: CreateEndpoint "
        f'will fail with ResourceLimitExceeded. Ask for "{instance_type} for endpoint usage" '
        "under Service Quotas first."
    )
