"""The exact AWS requests of a specification. Pure functions: plan, deployment and tests use the same requests.

Names of models and configurations end in a hash of their content. So a rerun finds its own resources, a changed
specification never reuses an old name, and update and rollback are switches between configurations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sagemaker_deploy.request.environment import container_environment
from sagemaker_deploy.request.hosting import download_timeout_s, health_check_timeout_s, host_ami_version
from sagemaker_deploy.request.service_model import violations
from sagemaker_deploy.request.spec import ENDPOINT_TAG, AsyncOptions, ComponentOptions, DeploySpec

VARIANT = "AllTraffic"

Request = dict[str, Any]


@dataclass(frozen=True)
class Requests:
    """Bodies of the creating calls, in order. `component` is None unless the endpoint uses an inference component."""

    model: Request
    endpoint_config: Request
    endpoint: Request
    component: Request | None = None

    @property
    def model_name(self) -> str:
        return str(self.model["ModelName"])

    @property
    def config_name(self) -> str:
        return str(self.endpoint_config["EndpointConfigName"])

    @property
    def endpoint_name(self) -> str:
        return str(self.endpoint["EndpointName"])

    def by_operation(self) -> dict[str, Request]:
        """Return the bodies by API operation."""
        bodies = {
            "CreateModel": self.model,
            "CreateEndpointConfig": self.endpoint_config,
            "CreateEndpoint": self.endpoint,
        }
        return bodies if self.component is None else bodies | {"CreateInferenceComponent": self.component}

    def violations(self) -> list[str]:
        """Return what SageMaker would refuse in these bodies, according to botocore's model of the API."""
        return [
            problem
            for operation, body in self.by_operation().items()
            for problem in violations("sagemaker", operation, body)
        ]


def build_requests(spec: DeploySpec, region: str) -> Requests:
    """Return the requests that create the endpoint of `spec` in `region`. Equal specifications give equal requests."""
    tags = _tags(spec)
    model = _named("ModelName", spec.name, _model(spec, region) | {"Tags": tags})
    model_name = model["ModelName"]
    config = _named("EndpointConfigName", spec.name, _endpoint_config(spec, model_name) | {"Tags": tags})
    endpoint = {
        "EndpointName": spec.name,
        "EndpointConfigName": config["EndpointConfigName"],
        "Tags": tags,
    }
    component = _component(spec, spec.component, model_name) | {"Tags": tags} if spec.component else None
    return Requests(model, config, endpoint, component)


def component_name(endpoint_name: str) -> str:
    """Return the name of an endpoint's inference component."""
    return f"{endpoint_name}-model"


def adapter_request(endpoint_name: str, name: str, base: str, artifact: str) -> Request:
    """Return the CreateInferenceComponent of an adapter: it has no compute of its own, so no variant and no copies."""
    return {
        "InferenceComponentName": name,
        "EndpointName": endpoint_name,
        "Specification": {"BaseInferenceComponentName": base, "Container": {"ArtifactUrl": artifact}},
        "Tags": [{"Key": ENDPOINT_TAG, "Value": endpoint_name}],
    }


def _model(spec: DeploySpec, region: str) -> Request:
    container: Request = {"Image": spec.image, "Environment": container_environment(spec, region)}
    if spec.mounted:
        container["ModelDataSource"] = model_data_source(spec.mounted)
    model: Request = {"ExecutionRoleArn": spec.role, "PrimaryContainer": container}
    if spec.network_isolation:
        model["EnableNetworkIsolation"] = True
    if spec.vpc:
        model["VpcConfig"] = {
            "Subnets": list(spec.vpc.subnets),
            "SecurityGroupIds": list(spec.vpc.security_groups),
        }
    return model


def model_data_source(prefix: str) -> Request:
    """Return a `ModelDataSource`: keys below the prefix appear as files below `/opt/ml/model`, without an archive."""
    return {"S3DataSource": {"S3Uri": prefix, "S3DataType": "S3Prefix", "CompressionType": "None"}}


def _endpoint_config(spec: DeploySpec, model_name: str) -> Request:
    variant: Request = {
        "VariantName": VARIANT,
        "InstanceType": spec.instance_type,
        "InitialInstanceCount": spec.instance_count,
        "RoutingConfig": {"RoutingStrategy": spec.routing},
    }
    ami = spec.ami_version or host_ami_version(spec.cuda, spec.instance_type)
    optional = {"InferenceAmiVersion": ami, "VolumeSizeInGB": spec.volume_gb}
    variant |= {key: value for key, value in optional.items() if value}
    config: Request = {"ProductionVariants": [variant]}
    if spec.component:
        variant["ManagedInstanceScaling"] = _instance_scaling(spec.component)
        config |= _component_hosting(spec)
    else:
        variant |= {"ModelName": model_name, "InitialVariantWeight": 1, **startup_parameters(spec)}
    if spec.asynchronous:
        config["AsyncInferenceConfig"] = async_config(spec.asynchronous)
    return config


def _instance_scaling(component: ComponentOptions) -> Request:
    return {
        "Status": "ENABLED",
        "MinInstanceCount": component.min_instances,
        "MaxInstanceCount": component.max_instances,
    }


def _component_hosting(spec: DeploySpec) -> Request:
    """Role and isolation, which belong to the configuration if the variant has no model."""
    hosting: Request = {"ExecutionRoleArn": spec.role}
    if spec.network_isolation:
        hosting["EnableNetworkIsolation"] = True
    return hosting


def startup_parameters(spec: DeploySpec) -> dict[str, int]:
    """Timeouts in seconds for the first 200 on /ping and, with weights in S3, for their download."""
    health_s = spec.health_check_s or health_check_timeout_s(spec.weights_gb)
    parameters = {"ContainerStartupHealthCheckTimeoutInSeconds": health_s}
    if spec.mounted:
        parameters["ModelDataDownloadTimeoutInSeconds"] = spec.download_s or download_timeout_s(spec.weights_gb)
    return parameters


def async_config(options: AsyncOptions) -> Request:
    """Return the `AsyncInferenceConfig` for `options`."""
    output: Request = {"S3OutputPath": options.output}
    if options.failure:
        output["S3FailurePath"] = options.failure
    topics = {"SuccessTopic": options.success_topic, "ErrorTopic": options.error_topic}
    topics = {key: value for key, value in topics.items() if value}
    if topics:
        output["NotificationConfig"] = topics
    config: Request = {"OutputConfig": output}
    if options.max_concurrent:
        config["ClientConfig"] = {"MaxConcurrentInvocationsPerInstance": options.max_concurrent}
    return config


def _component(spec: DeploySpec, component: ComponentOptions, model_name: str) -> Request:
    compute: Request = {"MinMemoryRequiredInMb": component.memory_mib}
    if component.num_gpus:
        compute["NumberOfAcceleratorDevicesRequired"] = component.num_gpus
    return {
        "InferenceComponentName": component_name(spec.name),
        "EndpointName": spec.name,
        "VariantName": VARIANT,
        "Specification": {
            "ModelName": model_name,
            "StartupParameters": startup_parameters(spec),
            "ComputeResourceRequirements": compute,
        },
        "RuntimeConfig": {"CopyCount": component.copies},
    }


def _tags(spec: DeploySpec) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in {ENDPOINT_TAG: spec.name, **spec.tags}.items()]


def _named(key: str, base: str, body: Mapping[str, Any]) -> Request:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return {key: f"{base}-{digest[:8]}", **body}
