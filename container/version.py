"""The version."""

from __future__ import annotations

# pyproject.toml and every answer read this literal; tests/rules/test_version.py compares the rest with it.
VERSION = "0.2.0"
FINGERPRINT = f"heir-{VERSION}"
