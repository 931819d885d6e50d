"""Proves an image or a container before it is deployed. Needs no AWS."""
