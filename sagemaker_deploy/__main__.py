"""`python -m sagemaker_deploy`."""

from sagemaker_deploy.cli.main import run

run()
