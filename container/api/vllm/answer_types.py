"""The answers of the tokenizer routes, field for field as vLLM sends them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from container.api.bounds import shown


class TokenList(msgspec.Struct, frozen=True):
    """Token ids and their number. `token_strs` are their spellings in the vocabulary, if asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizedText(msgspec.Struct, frozen=True):
    """The text of token ids, special tokens spelt out."""

    prompt: str


# What `tokenizer_config.json` says, which differs from model to model.
TokenizerInfo = Annotated[
    dict[str, Any], shown(required=["tokenizer_class"], properties={"tokenizer_class": {"type": "string"}})
]
