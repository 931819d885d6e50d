"""What a client that tokenizes by this server wants to know of the tokenizer: its configuration and its template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from container.serving.served_model import ServedModel

# Places of files, which are nobody's business, and what the template below replaces.
_LEFT_OUT = frozenset({"name_or_path", "vocab_file", "merges_file", "tokenizer_file", "chat_template"})
_TOKENS = frozenset({"added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"})
_CLASS = "PreTrainedTokenizerFast"


def tokenizer_info(served: ServedModel) -> dict[str, Any]:
    """`tokenizer_config.json` with each token as its text, then the special tokens, the class and the chat template.

    Source: class `TokenizerInfo` of vLLM 0.33.0.
    """
    config = _config(Path(served.card.tokenizer_dir))
    found = {key: _texts(value, _holds_tokens(key)) for key, value in config.items() if key not in _LEFT_OUT}
    found |= {"eos_token": None} | served.tokenizer.special_tokens_map
    found["tokenizer_class"] = str(config.get("tokenizer_class") or _CLASS)
    if served.chat_template is not None:
        found["chat_template"] = served.chat_template.source
    return found


def _config(directory: Path) -> dict[str, Any]:
    """The file was readable when the model was loaded; a directory may have none."""
    path = directory / "tokenizer_config.json"
    found = msgspec.json.decode(path.read_bytes()) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _holds_tokens(key: str) -> bool:
    return key in _TOKENS or key.endswith("_token")


def _texts(value: Any, tokens: bool) -> Any:
    """`value` with the text of each serialised AddedToken in its place; in `tokens`, one may not say what it is."""
    if isinstance(value, dict):
        content = value.get("content")
        if isinstance(content, str) and (tokens or value.get("__type") == "AddedToken"):
            return content
        return {key: _texts(each, tokens) for key, each in value.items()}
    return [_texts(each, tokens) for each in value] if isinstance(value, list) else value
