"""The configuration of a model as transformers has it, if it can be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from handler.model.checks.causal import check_causal
from handler.model.checks.published_values import check_form, name_form, settle
from handler.seam.errors import BadModel, one_line


def read_config(directory: Path, *, trust_remote_code: bool) -> Any:
    """transformers' configuration of the checkpoint in `directory`, from config.json alone. Raises BadModel."""
    try:
        found = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as exc:  # each family checks its values in its own way
        raise BadModel(f"{directory / 'config.json'} was not understood: {one_line(exc)}") from exc
    check_causal(found, directory)
    settle(found)
    name_form(found, directory)
    check_form(found, directory)
    return found
