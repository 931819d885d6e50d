"""Use a deployed endpoint."""
