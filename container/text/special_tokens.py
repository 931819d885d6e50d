"""What a tokenizer's configuration declares: its special tokens, and how answers are read by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

# transformers' PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES, in its order.
_STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class SpecialTokens(msgspec.Struct, frozen=True):
    """`named` equals transformers' `special_tokens_map`; `flagged` holds the texts of all tokens declared special.

    `response_template` is the configuration's own, as JSON: it says which of these tokens do what in an answer.
    """

    named: dict[str, str]
    flagged: frozenset[str]
    response_template: Any = None

    @classmethod
    def read(cls, directory: Path) -> SpecialTokens:
        """Read `tokenizer_config.json`. Neither it nor `special_tokens_map.json` needs to exist.

        If it has no `added_tokens_decoder` (older configurations), `special_tokens_map.json` overrides it, as in
        transformers. Raises `OSError`, `ValueError` or `TypeError` for an unreadable or malformed file.
        """
        config = _read_object(directory / "tokenizer_config.json")
        declared = config.get("added_tokens_decoder")
        if declared is None:
            config = {**config, **_read_object(directory / "special_tokens_map.json")}
        named = _named(config)
        # A text alone, as some files have it, is not declared special.
        entries = [entry for entry in (declared or {}).values() if not isinstance(entry, str)]
        flagged = {str(entry["content"]) for entry in entries if entry.get("special")}
        declared_special = frozenset(flagged | set(named.values()) | _extra(config))
        return cls(named=named, flagged=declared_special, response_template=config.get("response_template"))


def _named(config: dict[str, Any]) -> dict[str, str]:
    named = {key: text for key in _STANDARD if (text := _text(config.get(key))) is not None}
    # A model may name further tokens (image_token); transformers passes those to the template too.
    for key, value in config.items():
        if key.endswith("_token") and key not in _STANDARD and isinstance(value, str):
            named[key] = value
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        named.update({str(key): text for key, value in extra.items() if (text := _text(value)) is not None})
    return named


def _extra(config: dict[str, Any]) -> set[str]:
    listed: set[str] = set()
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value = config.get(key)
        if isinstance(value, list):
            listed.update(text for item in value if (text := _text(item)) is not None)
    return listed


def _text(value: object) -> str | None:
    """The text of a token written as a string or as a serialised AddedToken."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise TypeError(f"{path.name} is not a JSON object")
    return value
