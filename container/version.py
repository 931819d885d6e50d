"""The version, in the one place that knows it."""

from __future__ import annotations

VERSION = "0.1.0"
FINGERPRINT = f"heir-{VERSION}"
