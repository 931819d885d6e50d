"""Provides a directory with tokenizer.json, the only tokenizer format that the web side reads."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from handler.model.json_file import read_json
from handler.model.sentencepiece.converter import convert
from handler.seam.errors import BadModel, one_line

# Part of the directory's name. Increment it when the conversion writes something else.
_FORMAT = 1
_SENTENCEPIECE, _TEKKEN, _CONFIG = "tokenizer.model", "tekken.json", "tokenizer_config.json"
# Files that hold a vocabulary, in some format.
_VOCABULARIES = (_SENTENCEPIECE, "*.model", _TEKKEN, "*.tiktoken", "vocab.json", "vocab.txt", "merges.txt")
_READ_BY_TRANSFORMERS = {_TEKKEN, "vocab.json", "vocab.txt"}
# What the web side reads beside tokenizer.json, if it is there.
_BESIDE = ("special_tokens_map.json", "chat_template.json", "chat_template.jinja", "additional_chat_templates/*.jinja")
_REMEDY = (
    "write tokenizer.json with AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY) where transformers "
    "and the packages that the tokenizer needs are installed"
)


def tokenizer_dir(directory: Path, cache_dir: Path, trust_remote_code: bool) -> Path:
    """The model's own directory if it has tokenizer.json, else one in the cache, made once. Raises BadModel."""
    if (directory / "tokenizer.json").is_file():
        return directory
    target = cache_dir / "tokenizers" / f"{directory.name}-{_key(directory)}"
    if (target / "tokenizer.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=target.parent))
    try:
        _make(directory, scratch, trust_remote_code)
        # The rename is atomic. Another engine may have finished first.
        if not (target / "tokenizer.json").is_file():
            scratch.chmod(0o755)
            os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _key(directory: Path) -> str:
    """Another for every version of the files that are read."""
    patterns = (*_VOCABULARIES, "added_tokens.json", _CONFIG, "config.json", *_BESIDE)
    paths = sorted({path for pattern in patterns for path in directory.glob(pattern)})
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(f"{_FORMAT}:{directory.resolve()}:{stats}".encode()).hexdigest()[:12]


def _make(directory: Path, target: Path, trust_remote_code: bool) -> None:
    """Write tokenizer.json and the files beside it into `target`. Raises BadModel."""
    found = sorted({path.name for pattern in _VOCABULARIES for path in directory.glob(pattern)})
    if not found:
        # Of nothing, transformers makes a vocabulary of three tokens for some classes.
        raise BadModel(f"{directory} holds no tokenizer; copy tokenizer.json from the model's repository into it")
    try:
        if _SENTENCEPIECE in found and _TEKKEN not in found:
            convert(directory, target)
            _copy_beside(directory, target)
        elif _READ_BY_TRANSFORMERS.intersection(found):
            _convert_with_transformers(directory, target, trust_remote_code)
        else:
            raise ValueError("its format is not read here")
    except BadModel:
        raise
    except Exception as exc:  # every tokenizer backend has its own exceptions
        reason = one_line(exc, 160)
        raise BadModel(
            f"{directory} has no tokenizer.json, and none could be made of {', '.join(found)}: {reason}; {_REMEDY}"
        ) from exc


def _convert_with_transformers(directory: Path, target: Path, trust_remote_code: bool) -> None:
    from transformers import AutoTokenizer

    try:
        options = _tekken_options(directory) if (directory / _TEKKEN).is_file() else {}
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code, **options)
    except ValueError as exc:
        if "instantiate the backend" not in str(exc):
            raise
        raise ValueError("tokenizer_config.json names no class that reads this format") from exc
    tokenizer.save_pretrained(target)
    if not (target / "tokenizer.json").is_file():
        raise ValueError(f"{type(tokenizer).__name__} has no fast form")


def _tekken_options(directory: Path) -> dict[str, Any]:
    """What mistral-common knows and tekken.json does not say, unless tokenizer_config.json does."""
    config = read_json(directory / _CONFIG) if (directory / _CONFIG).is_file() else {}
    known = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    return {key: value for key, value in known.items() if key not in config}


def _copy_beside(directory: Path, target: Path) -> None:
    for path in (path for pattern in _BESIDE for path in directory.glob(pattern)):
        copy = target / path.relative_to(directory)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
