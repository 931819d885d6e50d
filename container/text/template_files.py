"""Reads the chat templates of a model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from container.text.template_sandbox import TemplateError


def read_templates(directory: Path) -> dict[str, str]:
    """Template sources by name; a single template is "default". Empty if the model has none.

    Precedence, as in transformers: `chat_template.jinja`, then the processors' `chat_template.json`, then
    `tokenizer_config.json`. `additional_chat_templates/*.jinja` adds to any of them.

    Raises `TemplateError` for an unreadable file or an unknown format.
    """
    try:
        extra = {
            path.stem: path.read_text(encoding="utf-8")
            for path in sorted((directory / "additional_chat_templates").glob("*.jinja"))
        }
        return {**_main_templates(directory), **extra}
    except (OSError, ValueError) as exc:
        raise TemplateError(f"The chat template in {directory} is not readable: {exc}.") from exc


def _main_templates(directory: Path) -> dict[str, str]:
    source = directory / "chat_template.jinja"
    if source.is_file():
        return {"default": source.read_text(encoding="utf-8")}
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = directory / name
        if path.is_file():
            templates = _declared(json.loads(path.read_text(encoding="utf-8")), path)
            if templates:
                return templates
    return {}


def _declared(document: Any, path: Path) -> dict[str, str]:
    """The `chat_template` entry of a JSON file: one source, or a list of {"name", "template"}."""
    value = document.get("chat_template") if isinstance(document, dict) else None
    if value is None:
        return {}
    entries = [{"name": "default", "template": value}] if isinstance(value, str) else value
    try:
        templates = {entry["name"]: entry["template"] for entry in entries}
    except (KeyError, TypeError) as exc:
        raise TemplateError(f"The chat_template in {path} is neither a string nor a list of templates.") from exc
    if not all(isinstance(text, str) for pair in templates.items() for text in pair):
        raise TemplateError(f"The chat_template in {path} is neither a string nor a list of templates.")
    return templates
