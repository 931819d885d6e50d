"""The version."""

from __future__ import annotations

VERSION = "0.1.0"
FINGERPRINT = f"heir-{VERSION}"
