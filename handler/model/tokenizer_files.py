"""Provides a directory with tokenizer.json, the only tokenizer format that the web side reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

from handler.seam.errors import BadModel, one_line


def tokenizer_dir(directory: Path, cache_dir: Path, trust_remote_code: bool) -> Path:
    """The model's own directory if it has tokenizer.json, else one that transformers writes. Raises BadModel."""
    if (directory / "tokenizer.json").is_file():
        return directory
    key = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]
    target = cache_dir / "tokenizers" / f"{directory.name}-{key}"
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code, use_fast=True)
        target.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(target)
    except Exception as exc:  # every tokenizer backend has its own exceptions
        raise BadModel(f"no tokenizer could be made from {directory}: {one_line(exc)}") from exc
    if not (target / "tokenizer.json").is_file():
        raise BadModel(f"the tokenizer in {directory} has no fast form (tokenizer.json), which this server needs")
    return target
