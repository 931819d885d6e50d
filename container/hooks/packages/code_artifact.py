"""AWS CodeArtifact as the package index: sagemaker-inference's CA_REPOSITORY_ARN."""

from __future__ import annotations

import importlib
import re

from container.hooks.packages.pip_run import BadRequirements

_ARN = re.compile(
    r"arn:[^:]+:codeartifact:(?P<region>[^:]+):(?P<owner>[^:]+):repository/(?P<domain>[^/]+)/(?P<name>.+)"
)


def index_url(arn: str) -> str:
    """The URL of a repository's index, with a token of 12 hours in it: a secret. Raises BadRequirements."""
    found = _ARN.fullmatch(arn)
    if not found:
        raise BadRequirements(f"CA_REPOSITORY_ARN {arn!r} is no ARN of a CodeArtifact repository")
    owner = {"domain": found["domain"], "domainOwner": found["owner"]}
    boto3 = importlib.import_module("boto3")  # takes a second, and few need it
    errors = importlib.import_module("botocore.exceptions")
    try:
        client = boto3.client("codeartifact", region_name=found["region"])
        token = client.get_authorization_token(**owner)["authorizationToken"]
        endpoint = client.get_repository_endpoint(**owner, repository=found["name"], format="pypi")[
            "repositoryEndpoint"
        ]
    except (errors.BotoCoreError, errors.ClientError) as exc:
        raise BadRequirements(f"CodeArtifact gives no access to CA_REPOSITORY_ARN {arn}: {exc}") from exc
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://aws:{token}@{rest.rstrip('/')}/simple/"
