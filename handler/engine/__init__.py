"""The loop: receive, schedule, run, sample, send. Imports every room of `handler`; no room imports it."""
