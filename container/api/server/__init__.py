"""Routes that belong to no dialect: health and metrics."""
