"""Builds the requests to AWS. Makes no call."""
