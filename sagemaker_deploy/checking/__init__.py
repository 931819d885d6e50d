"""Prove an image or a container before it is deployed."""
