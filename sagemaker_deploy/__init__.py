"""From a laptop to a SageMaker endpoint and back.

    from sagemaker_deploy import Clients, DeploySpec, deploy

    spec = DeploySpec(name="llm", image=..., role=..., instance_type="ml.g6.2xlarge", model_id=...)
    endpoint = deploy(spec, Clients())
    endpoint.predictor.predict({"messages": [{"role": "user", "content": "Hello"}]})

Read in this order: `request.spec` (the specification), `request.requests` (the AWS requests), `preflight`, `deployment`
(create), `aws.removal` (delete). `calling.endpoint_client` calls the endpoint. `cli` offers the same as commands.
"""

from sagemaker_deploy.aws.adapters import AdapterOptions, create_adapter, delete_adapter, list_adapters
from sagemaker_deploy.aws.autoscaling import ScalingOptions, autoscale
from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.removal import delete
from sagemaker_deploy.aws.rollback import UpdateOptions
from sagemaker_deploy.calling.endpoint_client import AsyncCall, EndpointClient
from sagemaker_deploy.deployment import Deployment, DeployOptions, deploy
from sagemaker_deploy.plan import Plan, make_plan
from sagemaker_deploy.request.spec import AsyncOptions, ComponentOptions, DeploySpec, VpcOptions

__all__ = [
    "AdapterOptions",
    "AsyncCall",
    "AsyncOptions",
    "Clients",
    "ComponentOptions",
    "DeployOptions",
    "DeploySpec",
    "Deployment",
    "EndpointClient",
    "Plan",
    "ScalingOptions",
    "UpdateOptions",
    "VpcOptions",
    "autoscale",
    "create_adapter",
    "delete",
    "delete_adapter",
    "deploy",
    "list_adapters",
    "make_plan",
]
