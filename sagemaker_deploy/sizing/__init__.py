"""Which instance type fits a model."""
