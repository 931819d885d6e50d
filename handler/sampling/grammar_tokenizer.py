"""The tokenizer that llguidance reads: the spelling of a control token is data.

llguidance tokenizes text that a grammar forces, and takes every added token spelt `<...>` for a control token. Text
that spells such a token, in a constant or in a mark, is then forced as that token and never accepted. Here control
tokens have names that no text spells, and other added tokens are ordinary vocabulary. A grammar names both by id.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
from llguidance import LLTokenizer
from tokenizers.pre_tokenizers import ByteLevel

from handler.seam.errors import one_line

logger = logging.getLogger(__name__)

# Unicode reserves U+FDD0: it is in no text.
_UNSPELT = "\ufdd0"
# Unigram chooses the pieces with the highest sum of scores: never this one.
_LOWEST_SCORE = -1e6


def grammar_tokenizer(path: Path, vocab_size: int, eos_token_ids: Collection[int]) -> LLTokenizer:
    """The `tokenizer.json` at `path`. Raises what llguidance raises for a tokenizer it cannot read."""
    text = path.read_text("utf-8")
    ends = sorted(eos_token_ids)
    try:
        return LLTokenizer(_with_data_spelt(text, eos_token_ids), n_vocab=vocab_size, eos_token=ends)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        logger.warning("grammars cannot hold the spellings of control tokens: %s", one_line(exc))
        return LLTokenizer(text, n_vocab=vocab_size, eos_token=ends)


def _with_data_spelt(text: str, eos_token_ids: Collection[int]) -> str:
    """The file's text with its added tokens renamed or moved. Raises KeyError or TypeError for an unknown layout."""
    found = msgspec.json.decode(text)
    vocabulary = _Vocabulary(found["model"])
    byte_level = _is_byte_level(found.get("decoder"))
    kept: list[dict[str, Any]] = []
    for token in sorted(found.get("added_tokens") or [], key=lambda token: int(token["id"])):
        token_id, content = token["id"], token["content"]
        name = content
        if token["special"] or token_id in eos_token_ids:
            name = f"<{_UNSPELT}{token_id}>"
            kept.append({**token, "content": name, "normalized": False})
        elif content.startswith("<") and content.endswith(">"):
            name = _in_vocabulary(content, byte_level)
        else:
            kept.append(token)
        # The library numbers added tokens that the vocabulary lacks in their order, not by their ids.
        if not vocabulary.rename(token_id, content, name):
            raise ValueError(f"there is no room for token {token_id}")
    found["added_tokens"] = kept
    return msgspec.json.encode(found).decode()


class _Vocabulary:
    """The vocabulary of a model: names to ids, or for Unigram names and scores in the order of ids."""

    def __init__(self, model: dict[str, Any]) -> None:
        self._model = model
        self._entries: dict[str, int] | list[list[Any]] = model["vocab"]

    def rename(self, token_id: int, old: str, new: str) -> bool:
        """Name the token; False if its id cannot be had."""
        if isinstance(self._entries, dict):
            self._entries.pop(old, None)
            self._entries[new] = token_id
            if self._model.get("unk_token") == old:
                self._model["unk_token"] = new
            return True
        if token_id > len(self._entries):
            return False
        if token_id == len(self._entries):
            self._entries.append([new, _LOWEST_SCORE])
        else:
            self._entries[token_id] = [new, self._entries[token_id][1]]
        return True


def _is_byte_level(decoder: Any) -> bool:
    parts = [decoder, *((decoder or {}).get("decoders") or [])]
    return any(part is not None and part.get("type") == "ByteLevel" for part in parts)


def _in_vocabulary(content: str, byte_level: bool) -> str:
    """A text in the spelling of the vocabulary."""
    if byte_level:
        return "".join(piece for piece, _ in ByteLevel(False, use_regex=False).pre_tokenize_str(content))
    return content.replace(" ", "\u2581")
