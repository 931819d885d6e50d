"""The commands of `sagemaker-deploy`: arguments, actions, output."""
