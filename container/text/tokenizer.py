"""Text to token ids and back, from a `tokenizer.json`, without transformers.

`encode`, `decode` and `special_tokens_map` agree with transformers' AutoTokenizer on a directory written by
its `save_pretrained`, which is what the engine hands over. Other directories work as far as their
`tokenizer.json` is complete: the post-processor in that file, not `add_bos_token` in the configuration,
decides about bos and eos.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from container.text.in_thread import in_thread
from container.text.special_tokens import SpecialTokens
from container.text.token_bytes import TokenBytes
from container.text.tokenizer_error import TokenizerError, guarded

__all__ = ["TokenSpan", "Tokenizer", "TokenizerError"]

# The widest id the Rust side accepts; a larger one would raise OverflowError at the seam.
_MAX_ID = 2**32 - 1
# Longer texts take more than some milliseconds. `encode_batch` lets go of Python's lock, `encode` does not.
_LONG_CHARS = 10_000
# Pieces of text whose tokens the library remembers; it would remember ten times as many.
_REMEMBERED = 1_000
_SURROGATE = re.compile("[\ud800-\udfff]")


class TokenSpan(msgspec.Struct, frozen=True):
    """One token of an encoded text and the stretch of the text it covers.

    `start` and `stop` count UTF-8 bytes, because TGI's router reports what Rust's `Tokenizer::encode`
    reports, and `text` is that slice of the input. Tokens that share one character all cover the whole
    character, and a token the post-processor added (bos) covers nothing: 0, 0, "".
    """

    id: int
    text: str
    start: int
    stop: int


class Tokenizer:
    """A loaded tokenizer. Methods raise `TokenizerError` and nothing else."""

    def __init__(self, backend: tokenizers.Tokenizer, special: SpecialTokens) -> None:
        self._backend = backend
        self._backend.no_truncation()
        self._backend.no_padding()
        _register(backend, special)
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.special_tokens_map: dict[str, str] = special.named
        self.added_tokens: frozenset[str] = frozenset(token.content for token in added.values())
        self.control_tokens: frozenset[str] = frozenset(
            token.content for token in added.values() if token.special or token.content in special.flagged
        )

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read `tokenizer.json` and the special tokens named beside it.

        Raises `TokenizerError` if a file is missing, is not JSON or describes no tokenizer that can encode.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"There is no tokenizer.json in {directory}.")
        try:
            special = SpecialTokens.read(directory)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as exc:
            raise TokenizerError(f"The tokenizer configuration in {directory} is not readable: {exc}.") from exc
        backend = guarded(f"{path} is not a valid tokenizer file", tokenizers.Tokenizer.from_file, str(path))
        _bound_memory(backend)
        tokenizer = guarded(f"{path} is not a usable tokenizer", cls, backend, special)
        guarded(f"{path} is not a usable tokenizer", backend.encode, "a", add_special_tokens=True)
        return tokenizer

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`; the spelling of an added token in `text` becomes that token."""
        return list(self._encode(text, add_special_tokens).ids)

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of `text` as the continuation of another text: no bos, no sentencepiece prefix space.

        Encoding after a newline and dropping the newline's ids suppresses the prefix; where the newline
        merges into `text` (byte-level vocabularies, which add no prefix) the plain encoding is the right one.
        """
        newline = self._newline_ids
        ids = self.encode("\n" + text, add_special_tokens=False)
        if ids[: len(newline)] == newline:
            return ids[len(newline) :]
        return self.encode(text, add_special_tokens=False)

    def spans(self, text: str, *, add_special_tokens: bool) -> list[TokenSpan]:
        """The tokens of `text` with the bytes each covers (see `TokenSpan`)."""
        encoding = self._encode(text, add_special_tokens)
        byte_at = range(len(text) + 1) if text.isascii() else _byte_offsets(text)
        return [
            TokenSpan(token_id, text[start:stop], byte_at[start], byte_at[stop])
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of `token_ids`. Ids outside the vocabulary add nothing; broken characters become
        U+FFFD.
        """
        known = [token_id for token_id in token_ids if 0 <= token_id <= _MAX_ID]
        return guarded(
            "The tokenizer failed to decode",
            self._backend.decode,
            known,
            skip_special_tokens=skip_special_tokens,
        )

    def is_special(self, token_id: int) -> bool:
        """Whether `skip_special_tokens` leaves this id out."""
        return token_id in self._special_ids

    def is_known(self, token_id: int) -> bool:
        """Whether the vocabulary holds `token_id`; decoding passes over others."""
        return 0 <= token_id <= _MAX_ID and self._backend.id_to_token(token_id) is not None

    def token_id(self, token: str) -> int | None:
        """The id of one vocabulary entry, spelt as the vocabulary spells it."""
        return guarded("The tokenizer failed to look up a token", self._backend.token_to_id, token)

    @cached_property
    def token_bytes(self) -> TokenBytes | None:
        """What each token adds to a text, or None if this decoder is not a concatenation."""
        return guarded("The tokenizer's decoder is not usable", TokenBytes.of, self._backend)

    @cached_property
    def _newline_ids(self) -> list[int]:
        return self.encode("\n", add_special_tokens=False)

    def _encode(self, text: str, add_special_tokens: bool) -> Any:
        failure = "The tokenizer failed to encode the text"
        try:
            if len(text) < _LONG_CHARS:
                return guarded(failure, self._backend.encode, text, add_special_tokens=add_special_tokens)
            batch = [text]
            encode = partial(self._backend.encode_batch, batch, add_special_tokens=add_special_tokens)
            return in_thread(lambda: guarded(failure, encode))[0]
        except TokenizerError as exc:
            if _SURROGATE.search(text):
                raise TokenizerError("The text holds an unpaired surrogate, which is no character.") from exc
            raise


def _register(backend: tokenizers.Tokenizer, special: SpecialTokens) -> None:
    """Make added tokens of those the configuration declares and `tokenizer.json` knows only as plain
    vocabulary.

    A declared token that is not in the vocabulary is left out: transformers would give it an id past the end
    of the model's embedding.
    """
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing = [
        tokenizers.AddedToken(content, special=True, normalized=False)
        for content in sorted(special.flagged - present)
        if backend.token_to_id(content) is not None
    ]
    if missing:
        backend.add_special_tokens(missing)


def _bound_memory(backend: tokenizers.Tokenizer) -> None:
    """A vocabulary that does not split at white space remembers whole texts: 20 MB of them, of the last that came."""
    resize = getattr(backend.model, "_resize_cache", None)
    if resize is not None:
        resize(_REMEMBERED)


def _byte_offsets(text: str) -> list[int]:
    """Byte offset of every character of `text`, and of its end."""
    return list(accumulate((_utf8_length(character) for character in text), initial=0))


def _utf8_length(character: str) -> int:
    code = ord(character)
    return 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4
