"""Exact permissions of the endpoint's role and of the person who deploys; creating and deleting the role."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.image import ImageName
from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.progress import Progress

POLICY_NAME = "tgi-heir-endpoint"
Document = dict[str, Any]

TRUST_POLICY: Document = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "sagemaker.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the endpoint uses: its image, S3 prefixes to read and write, SNS topics, and whether it is in a VPC."""

    image: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    vpc: bool = False


def execution_policy(needs: Needs) -> Document:
    """Return the minimal policy of the endpoint's role. Raises `SpecError` if the image is not in ECR."""
    name = ImageName.parse(needs.image)
    partition = _partition(name.region)
    repository = f"arn:{partition}:ecr:{name.region}:{name.account}:repository/{name.repository}"
    logs = f"arn:{partition}:logs:{name.region}:*:log-group:/aws/sagemaker/*"
    pull = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    log = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    statements = [
        _allow("PullLogin", ["ecr:GetAuthorizationToken"], ["*"]),
        _allow("PullImage", pull, [repository]),
        _allow("Logs", log, [logs, f"{logs}:log-stream:*"]),
        _allow("Metrics", ["cloudwatch:PutMetricData"], ["*"]),
        *_s3_statements(needs, partition),
    ]
    if needs.topics:
        statements.append(_allow("Notify", ["sns:Publish"], list(needs.topics)))
    if needs.vpc:
        statements.append(_allow("Network", _VPC_ACTIONS, ["*"]))
    return {"Version": "2012-10-17", "Statement": statements}


def caller_policy(account: str, region: str, role_arn: str) -> Document:
    """Return the policy that a user of this helper needs, for all commands."""
    partition = _partition(region)
    sagemaker = f"arn:{partition}:sagemaker:{region}:{account}"
    kinds = ("model", "endpoint-config", "endpoint", "inference-component")
    pass_role = {
        **_allow("HandOverRole", ["iam:PassRole"], [role_arn]),
        "Condition": {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
    }
    logs = f"arn:{partition}:logs:{region}:{account}:log-group:/aws/sagemaker/*"
    service = "sagemaker.application-autoscaling.amazonaws.com"
    link = f"arn:{partition}:iam::{account}:role/aws-service-role/{service}/*"
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allow("Endpoints", _ENDPOINT_ACTIONS, [f"{sagemaker}:{kind}/*" for kind in kinds]),
            _allow("Find", _FIND_ACTIONS, ["*"]),
            _allow("BearerToken", ["sagemaker:CallWithBearerToken"], ["*"]),
            pass_role,
            _allow("Scaling", ["application-autoscaling:*"], ["*"]),
            _allow("ScalingRole", ["iam:CreateServiceLinkedRole"], [link]),
            _allow("Alarms", _ALARM_ACTIONS, ["*"]),
            _allow("ReadLogs", _LOG_ACTIONS, [logs]),
            _allow("InspectImage", _ECR_ACTIONS, [f"arn:{partition}:ecr:{region}:{account}:repository/*"]),
        ],
    }


def ensure_role(role_name: str, needs: Needs, clients: Clients, progress: Progress) -> str:
    """Create the role or update its policy; return its ARN. IAM takes some seconds to propagate it."""
    iam = clients["iam"]
    try:
        arn = iam.get_role(RoleName=role_name)["Role"]["Arn"]
        progress.step(f"role {role_name} already exists")
    except ClientError as exc:
        if exc.response["Error"]["Code"] != "NoSuchEntity":
            raise
        trust = json.dumps(TRUST_POLICY)
        arn = iam.create_role(RoleName=role_name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        progress.step(f"role {role_name} created")
    document = json.dumps(execution_policy(needs))
    iam.put_role_policy(RoleName=role_name, PolicyName=POLICY_NAME, PolicyDocument=document)
    progress.step(f"policy {POLICY_NAME} of {role_name} set")
    return str(arn)


def delete_role(role_name: str, clients: Clients, progress: Progress) -> None:
    """Delete the role and its policy, if they exist."""
    iam = clients["iam"]
    _unless_gone(iam.delete_role_policy, RoleName=role_name, PolicyName=POLICY_NAME)
    _unless_gone(iam.delete_role, RoleName=role_name)
    progress.step(f"role {role_name} deleted")


def _unless_gone(operation: Callable[..., Any], **names: str) -> None:
    try:
        operation(**names)
    except ClientError as exc:
        if exc.response["Error"]["Code"] != "NoSuchEntity":
            raise


def _s3_statements(needs: Needs, partition: str) -> list[Document]:
    statements = []
    for i, prefix in enumerate(needs.reads):
        bucket, key = _split(prefix)
        listing = _allow(f"ListWeights{i}", ["s3:ListBucket"], [f"arn:{partition}:s3:::{bucket}"])
        statements.append({**listing, "Condition": {"StringLike": {"s3:prefix": [f"{key}*"]}}})
        statements.append(_allow(f"ReadWeights{i}", ["s3:GetObject"], [f"arn:{partition}:s3:::{bucket}/{key}*"]))
    for i, prefix in enumerate(needs.writes):
        bucket, key = _split(prefix)
        statements.append(_allow(f"WriteAnswers{i}", ["s3:PutObject"], [f"arn:{partition}:s3:::{bucket}/{key}*"]))
    return statements


def _allow(sid: str, actions: list[str], resources: list[str]) -> Document:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}


def _split(prefix: str) -> tuple[str, str]:
    if not prefix.startswith("s3://"):
        raise SpecError(f"{prefix!r} must be an s3:// URI")
    bucket, _, key = prefix.removeprefix("s3://").partition("/")
    return bucket, key


def _partition(region: str) -> str:
    return {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(region.rsplit("-", 2)[0], "aws")


_ENDPOINT_ACTIONS = [
    f"sagemaker:{verb}{kind}"
    for kind in ("Model", "EndpointConfig", "Endpoint", "InferenceComponent")
    for verb in ("Create", "Describe", "Delete")
] + [
    "sagemaker:UpdateEndpoint",
    "sagemaker:InvokeEndpoint",
    "sagemaker:InvokeEndpointAsync",
    "sagemaker:InvokeEndpointWithResponseStream",
    "sagemaker:AddTags",
    "sagemaker:ListTags",
]
_FIND_ACTIONS = [
    "sagemaker:ListModels",
    "sagemaker:ListEndpointConfigs",
    "sagemaker:ListEndpoints",
    "sagemaker:ListInferenceComponents",
    "servicequotas:ListServiceQuotas",
    "ecr:GetAuthorizationToken",
]
_ALARM_ACTIONS = ["cloudwatch:PutMetricAlarm", "cloudwatch:DeleteAlarms", "cloudwatch:DescribeAlarms"]
_LOG_ACTIONS = ["logs:DescribeLogStreams", "logs:GetLogEvents", "logs:FilterLogEvents"]
_ECR_ACTIONS = ["ecr:DescribeImages", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
_VPC_ACTIONS = [
    "ec2:CreateNetworkInterface",
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
    "ec2:DescribeDhcpOptions",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
]
