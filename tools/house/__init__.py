"""`python -m tools.house [PATH]`: how the code of a checkout is laid out, read from its syntax trees alone."""
