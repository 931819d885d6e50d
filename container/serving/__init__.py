"""What all routes share: the served model, admission, readiness. Never imports `container.api`."""
