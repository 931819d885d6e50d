"""The bytes that each token adds to a text.

For nearly every decoder a text is the concatenation of its tokens' bytes. Streaming then needs no window of earlier
tokens and no second decoding: look up the token, append its bytes, cut at a character boundary.
"""

from __future__ import annotations

import json
import re
from typing import Any

import tokenizers

from container.text.tokenizer_error import guarded

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# Decoders that treat each token separately, except that the first may differ.
_TOKENWISE = {"Replace", "ByteFallback", "Metaspace", "WordPiece"}


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet, which writes every byte as a printable character."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    table.update({chr(0x100 + index): byte for index, byte in enumerate(hidden)})
    return table


_ALPHABET = _byte_of_character()


class TokenBytes:
    """Bytes by token id, looked up on first use.

    `byte_fallback` is true if `<0x..>` tokens stand for one byte each. The library then writes one U+FFFD for every
    undecodable byte instead of one for each broken sequence.
    """

    def __init__(self, backend: tokenizers.Tokenizer, kinds: list[str], context: int) -> None:
        self._backend = backend
        self._byte_level = kinds == ["ByteLevel"]
        self.byte_fallback = "ByteFallback" in kinds
        self._context = context
        self._context_length = len(self._decode(context))
        self._inner: dict[int, bytes] = {}
        self._texts: dict[int, str | None] = {}

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> TokenBytes | None:
        """The table for this tokenizer; None if its decoder is not known to be a concatenation."""
        kinds = _concatenative_kinds(backend)
        probe = backend.encode("a", add_special_tokens=False).ids
        if kinds is None or not probe:
            return None
        context = probe[-1]
        alone: str = backend.decode([context], skip_special_tokens=False)
        twice: str = backend.decode([context, context], skip_special_tokens=False)
        return cls(backend, kinds, context) if alone and twice.startswith(alone) else None

    def is_known(self, token_id: int) -> bool:
        """Whether the vocabulary contains `token_id`; decoding skips other ids."""
        return self._token(token_id) is not None

    def inner(self, token_id: int) -> bytes:
        """The bytes that `token_id` adds after another token; empty for an id outside the vocabulary."""
        known = self._inner.get(token_id)
        if known is None:
            known = self._inner[token_id] = self._look_up(token_id)
        return known

    def text(self, token_id: int) -> str | None:
        """The text that `token_id` adds after whole characters; None if its bytes are not whole characters."""
        try:
            return self._texts[token_id]
        except KeyError:
            found = self._texts[token_id] = _whole(self._look_up(token_id))
            return found

    def first(self, token_id: int) -> bytes:
        """The bytes that `token_id` adds as the first token; some decoders drop a leading space there."""
        if self._byte_level or not self.is_known(token_id):
            return self.inner(token_id)
        alone = self._decode(token_id)
        # A byte token may start a character; decoded alone it would be U+FFFD.
        return self.inner(token_id) if alone and self._is_byte(token_id) else alone.encode("utf-8")

    def _look_up(self, token_id: int) -> bytes:
        token = self._token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            try:
                return bytes(map(_ALPHABET.__getitem__, token))
            except KeyError:
                return bytes(token, "utf-8")
        if self._is_byte(token_id):
            return bytes.fromhex(token[3:5])
        return self._decode(self._context, token_id)[self._context_length :].encode("utf-8")

    def _is_byte(self, token_id: int) -> bool:
        return self.byte_fallback and _BYTE_TOKEN.fullmatch(self._token(token_id) or "") is not None

    def _token(self, token_id: int) -> str | None:
        token: str | None = self._backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        return token

    def _decode(self, *token_ids: int) -> str:
        text: str = guarded(
            "The tokenizer failed to decode", self._backend.decode, list(token_ids), skip_special_tokens=False
        )
        return text


def _whole(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _concatenative_kinds(backend: tokenizers.Tokenizer) -> list[str] | None:
    """The types of the decoder's steps if decoding is a concatenation, else None.

    It is one for ByteLevel alone, and for token-wise steps followed by optional Fuse and Strip (one leading
    space). [] means no decoder: tokens joined by spaces.
    """
    steps = [] if backend.decoder is None else _flatten(json.loads(backend.decoder.__getstate__()))
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return kinds
    rest = list(steps)
    if rest and rest[-1]["type"] == "Strip" and rest[-1]["start"] <= 1 and rest[-1]["stop"] == 0:
        rest.pop()
    if rest and rest[-1]["type"] == "Fuse":
        rest.pop()
    return kinds if all(step["type"] in _TOKENWISE for step in rest) else None


def _flatten(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for nested in decoder["decoders"] for step in _flatten(nested)]
