"""The commands of `sagemaker-deploy`: arguments, actions, output. Only here is anything printed."""
