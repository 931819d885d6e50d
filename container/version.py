"""The version."""

from __future__ import annotations

# pyproject.toml and every answer read this literal; tests/rules/test_version.py compares the rest with it.
VERSION = "0.2.0"
# Clients turn features on by TGI's version. A local part (PEP 440; build metadata in semantic versioning) compares as
# 3.3.7 or later; a suffix after "-" would compare as a pre-release.
TGI_VERSION = f"3.3.7+tgi-heir.{VERSION}"
FINGERPRINT = f"heir-{VERSION}"
