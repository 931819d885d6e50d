"""Where a checkpoint says how its weights are stored. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.model.json_file import read_json
from model_memory.stored_codes import MODELOPT_FILE, Settings, of_modelopt, quantization_of


def stored_settings(values: Mapping[str, Any], directory: Path) -> Settings | None:
    """The `quantization_config` of the parsed config.json `values`, else what ModelOpt's own file in `directory` says.

    None if the weights are dense. Raises BadModel for a file that is no JSON object.
    """
    found = quantization_of(values)
    if found is None and (directory / MODELOPT_FILE).is_file():
        return of_modelopt(read_json(directory / MODELOPT_FILE))
    return found
