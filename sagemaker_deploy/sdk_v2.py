"""Sends the same requests through `sagemaker.huggingface.HuggingFaceModel` of SDK version 2.

The SDK is imported only here and only on use. What it cannot express (the configuration's name, newer members of the
API) or adds by itself (empty variables, a bucket, defaults from a file) is corrected in the outgoing request, through
botocore's public `provide-client-params` event.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.request.requests import Requests
from sagemaker_deploy.request.spec import AsyncOptions, DeploySpec

_EVENT = "provide-client-params.sagemaker"


def sdk_major() -> int | None:
    """Return the major version of the installed SageMaker SDK, or None. Only 2 has `HuggingFaceModel`."""
    try:
        return int(importlib.metadata.version("sagemaker").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return None


def sdk_can_express(spec: DeploySpec) -> bool:
    """False for inference components, which the SDK creates under its own names."""
    return spec.component is None


def sdk_session(clients: Clients) -> Any:
    """Return a `sagemaker.Session` on the given clients, without the SDK's defaults from files.

    Those could make the requests differ from the plan, and the SDK validates them again at each of 25 look-ups.
    """
    with _quiet():
        session = _sdk().Session(
            boto_session=clients.session,
            sagemaker_client=clients.sagemaker,
            sagemaker_runtime_client=clients.runtime,
            sagemaker_config={"SchemaVersion": "1.0"},
        )
        session.sagemaker_config = {}
        return session


def huggingface_model(spec: DeploySpec, requests: Requests, clients: Clients) -> Any:
    """Return the `HuggingFaceModel`. Nothing is sent before its `deploy`."""
    with _quiet():
        container = requests.model["PrimaryContainer"]
        return _sdk("huggingface").HuggingFaceModel(
            name=requests.model_name,
            image_uri=spec.image,
            role=spec.role,
            env=dict(container["Environment"]),
            model_data=container.get("ModelDataSource"),
            # Keeps the SDK from creating a bucket. Nothing is written there.
            code_location=f"s3://{spec.name}-unused/code",
            vpc_config=requests.model.get("VpcConfig"),
            enable_network_isolation=spec.network_isolation,
            sagemaker_session=sdk_session(clients),
        )


def create_through_sdk(spec: DeploySpec, requests: Requests, clients: Clients) -> None:
    """Create model, configuration and endpoint, as `ControlPlane.create`. Does not wait.

    The SDK refuses an endpoint or a configuration that exists.
    """
    variant = requests.endpoint_config["ProductionVariants"][0]
    model = huggingface_model(spec, requests, clients)
    with _quiet(), _corrected(clients.sagemaker, requests):
        model.deploy(
            initial_instance_count=spec.instance_count,
            instance_type=spec.instance_type,
            endpoint_name=spec.name,
            tags=requests.endpoint["Tags"],
            wait=False,
            volume_size=variant.get("VolumeSizeInGB"),
            model_data_download_timeout=variant.get("ModelDataDownloadTimeoutInSeconds"),
            container_startup_health_check_timeout=variant["ContainerStartupHealthCheckTimeoutInSeconds"],
            inference_ami_version=variant.get("InferenceAmiVersion"),
            async_inference_config=_async_config(spec.asynchronous) if spec.asynchronous else None,
        )


def sdk_predictor(spec: DeploySpec, clients: Clients) -> Any:
    """Return a `HuggingFacePredictor` for an existing endpoint."""
    with _quiet():
        return _sdk("huggingface").HuggingFacePredictor(spec.name, sagemaker_session=sdk_session(clients))


def _sdk(module: str = "") -> Any:
    """Import the SDK on use: it takes seconds and need not be installed."""
    return importlib.import_module(f"sagemaker.{module}" if module else "sagemaker")


def _async_config(options: AsyncOptions) -> Any:
    topics = {"SuccessTopic": options.success_topic, "ErrorTopic": options.error_topic}
    return _sdk("async_inference").AsyncInferenceConfig(
        output_path=options.output,
        failure_path=options.failure or f"{options.output.rstrip('/')}-failures",
        max_concurrent_invocations_per_instance=options.max_concurrent,
        notification_config={key: value for key, value in topics.items() if value} or None,
    )


@contextlib.contextmanager
def _corrected(sagemaker_client: Any, requests: Requests) -> Iterator[None]:
    """While active, the client sends the names and members of `requests` instead of the SDK's."""
    events = sagemaker_client.meta.events
    handlers: dict[str, Callable[..., None]] = {
        "CreateModel": lambda params, **_: _correct_model(params, requests),
        "CreateEndpointConfig": lambda params, **_: _correct_config(params, requests),
        "CreateEndpoint": lambda params, **_: params.update(EndpointConfigName=requests.config_name),
    }
    for operation, handler in handlers.items():
        events.register(f"{_EVENT}.{operation}", handler)
    try:
        yield
    finally:
        for operation, handler in handlers.items():
            events.unregister(f"{_EVENT}.{operation}", handler)


def _correct_model(params: dict[str, Any], requests: Requests) -> None:
    """Undo the empty variables that the SDK adds, in place of those of the code too; whether they arrive is unknown."""
    params["PrimaryContainer"]["Environment"] = dict(requests.model["PrimaryContainer"]["Environment"])


def _correct_config(params: dict[str, Any], requests: Requests) -> None:
    params["EndpointConfigName"] = requests.config_name
    params["ProductionVariants"][0].update(
        RoutingConfig=requests.endpoint_config["ProductionVariants"][0]["RoutingConfig"]
    )
    if "AsyncInferenceConfig" in params:
        params["AsyncInferenceConfig"] = requests.endpoint_config["AsyncInferenceConfig"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the SDK's deprecation warnings about itself, which the user of this helper cannot act on."""
    os.environ.setdefault("SAGEMAKER_SUPPRESS_V2_WARNING", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
