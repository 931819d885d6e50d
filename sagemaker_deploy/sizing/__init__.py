"""Finds the instance type that fits a model. Reads only the model's config.json and file sizes."""
