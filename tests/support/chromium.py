"""The Chromium of the system, driven by Playwright. Playwright's own download is not needed."""

from __future__ import annotations

import os
import shutil

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium_program() -> str | None:
    """Its path, None if there is none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def chromium_options() -> list[str]:
    """Its command line: root has no sandbox, and small containers no room in /dev/shm."""
    return ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
