"""Draws docs/plan.svg: what `sagemaker-deploy plan Qwen/Qwen3-8B` prints. `make plan-picture` redraws it."""
