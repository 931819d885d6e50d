"""Reads a JSON file of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from handler.seam.errors import BadModel


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the model. Raises BadModel with the file's name."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise BadModel(f"{path} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise BadModel(f"{path} is not valid JSON") from exc
    if not isinstance(found, dict):
        raise BadModel(f"{path} must hold a JSON object")
    return found
