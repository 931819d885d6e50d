"""From a laptop to a SageMaker endpoint and back.

    from sagemaker_deploy import Clients, DeploySpec, deploy

    endpoint = deploy(DeploySpec(name="llm", image=..., role=..., instance_type="ml.g6.2xlarge",
    model_id=...), Clients()) endpoint.predictor.predict({"messages": [{"role": "user", "content": "Hello"}]})

Read in this order: `spec` (the wish), `requests` (what AWS is asked), `preflight`, `deployment` (the way
there), `removal` (the way back); `endpoint_client` calls the result. `cli` is the same as commands.
"""

from sagemaker_deploy.autoscaling import ScalingOptions, autoscale
from sagemaker_deploy.clients import Clients
from sagemaker_deploy.deployment import Deployment, DeployOptions, deploy
from sagemaker_deploy.endpoint_client import AsyncCall, EndpointClient
from sagemaker_deploy.plan import Plan, make_plan
from sagemaker_deploy.removal import delete
from sagemaker_deploy.rollback import UpdateOptions
from sagemaker_deploy.spec import AsyncOptions, ComponentOptions, DeploySpec, VpcOptions

__all__ = [
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
    "delete",
    "deploy",
    "make_plan",
]
