"""Which tokens end an answer: what every part of a checkpoint says, as far as the vocabulary has it.

A model tuned on a chat format commonly changes the tokenizer's `eos_token` alone and keeps the base model's
configuration, so no part overrides another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import msgspec

from handler.model.json_file import read_json
from handler.seam.errors import BadModel
from model_memory.weight_counts import TEXT_PARTS

logger = logging.getLogger(__name__)

# Keys of config.json under which transformers' `get_text_config`, or code of the model, finds the part that generates.
_TEXT_PARTS = (*TEXT_PARTS, "decoder", "generator")


class _Added(msgspec.Struct, frozen=True):
    id: int
    content: str


class _Vocabulary(msgspec.Struct, frozen=True):
    vocab: dict[str, int] | list[tuple[str, float]] = {}


class _TokenizerFile(msgspec.Struct, frozen=True):
    """The parts of a tokenizer.json that map texts to ids. The model is decoded only if it is asked."""

    added_tokens: list[_Added] = []
    model: msgspec.Raw = msgspec.Raw(b"{}")

    def token_id(self, text: str) -> int | None:
        for token in self.added_tokens:
            if token.content == text:
                return token.id
        vocab = msgspec.json.decode(self.model, type=_Vocabulary).vocab
        if isinstance(vocab, dict):
            return vocab.get(text)
        return next((i for i, (piece, _) in enumerate(vocab) if piece == text), None)


def eos_token_ids(directory: Path, tokens_dir: Path, text_config: Any) -> frozenset[int]:
    """The ids of generation_config.json, config.json, its text part and the tokenizer's `eos_token`; may be empty.

    `tokens_dir` holds tokenizer.json. If no part names an id, the default of the family does. Values that are no ids
    of the vocabulary are left out with a line in the log. Raises BadModel.
    """
    named = [value for file in _configs(directory) for value in _listed(file.get("eos_token_id"))]
    named += _of_tokenizer(tokens_dir)
    named = named or _listed(getattr(text_config, "eos_token_id", None))
    size = int(text_config.vocab_size)
    impossible = [value for value in named if not _is_id(value, size)]
    if impossible:
        texts = ", ".join(dict.fromkeys(repr(value)[:40] for value in impossible[:8]))
        logger.warning("eos_token_id: left out what is no id of the vocabulary of %d tokens: %s", size, texts)
    return frozenset(value for value in named if _is_id(value, size))


def _configs(directory: Path) -> Iterator[dict[str, Any]]:
    if (directory / "generation_config.json").is_file():
        yield read_json(directory / "generation_config.json")
    rest = [read_json(directory / "config.json")]
    while rest:
        config = rest.pop()
        yield config
        rest += [config[part] for part in _TEXT_PARTS if isinstance(config.get(part), dict)]


def _of_tokenizer(tokens_dir: Path) -> list[int]:
    """The id of the `eos_token` of each file that names one, if the vocabulary has it."""
    texts = []
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (tokens_dir / name).is_file():
            token = read_json(tokens_dir / name).get("eos_token")
            texts.append(token.get("content") if isinstance(token, dict) else token)
    wanted = [text for text in dict.fromkeys(map(str, texts)) if text in texts]
    if not wanted:
        return []
    file = tokens_dir / "tokenizer.json"
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_TokenizerFile)
        ids = [found.token_id(text) for text in wanted]
    except (OSError, msgspec.DecodeError) as exc:
        raise BadModel(f"{file} is not a valid tokenizer file: {exc}") from exc
    return [token_id for token_id in ids if token_id is not None]


def _listed(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _is_id(value: object, size: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size
