"""`python -m sagemaker_deploy`."""

from sagemaker_deploy.cli import run

run()
