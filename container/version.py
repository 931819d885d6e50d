"""The version. pyproject.toml and every answer read it here; tests/rules/test_version.py compares the rest."""

from __future__ import annotations

VERSION = "0.2.0"
FINGERPRINT = f"heir-{VERSION}"
