"""Builds and tests the image without Docker: `python -m tools.image_check`. docs/image.md says what that proves."""
