"""The loop: receive, schedule, run, sample, send. Only `handler.startup` imports it."""
