"""Text to token ids and back, from a `tokenizer.json`, without transformers.

`encode`, `decode` and `special_tokens_map` agree with transformers' AutoTokenizer on a directory written by its
`save_pretrained`, which is what the engine writes. Other directories work if their `tokenizer.json` is complete: the
post-processor in that file adds bos and eos; `add_bos_token` in the configuration is not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from container.text.special_tokens import SpecialTokens
from container.text.token_bytes import TokenBytes
from container.text.tokenizer_error import TokenizerError, guarded

__all__ = ["TokenSpan", "Tokenizer", "TokenizerError"]

# The largest id that the library's Rust side accepts; a larger one raises OverflowError.
_MAX_ID = 2**32 - 1
# Entries of the library's cache from pieces of text to tokens; its default is 10,000.
_CACHE_ENTRIES = 1_000
_SURROGATE = re.compile("[\ud800-\udfff]")


class TokenSpan(msgspec.Struct, frozen=True):
    """One token of an encoded text and the span of the text that it covers.

    `start` and `stop` count UTF-8 bytes, as Rust's `Tokenizer::encode` and therefore TGI's router do; `text` is that
    slice of the input. Tokens that share one character all cover the whole character. A token added by the
    post-processor (bos) covers nothing: 0, 0, "".
    """

    id: int
    text: str
    start: int
    stop: int


class Tokenizer:
    """A loaded tokenizer. Methods raise only `TokenizerError`."""

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
        # How answers are read, as JSON, if the checkpoint says it.
        self.response_template: Any = special.response_template

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read `tokenizer.json` and the special tokens declared in the files beside it.

        Raises `TokenizerError` if a file is missing, is not JSON, or the tokenizer cannot encode.
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
        """Token ids of `text`. The spelling of an added token in `text` becomes that token."""
        return list(self._encode(text, add_special_tokens).ids)

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of `text` as the continuation of another text: no bos, no sentencepiece prefix space.

        To suppress the prefix, encode after a newline and drop the newline's ids. If the newline merges into `text`
        (byte-level vocabularies, which add no prefix), the plain encoding is right.
        """
        newline = self._newline_ids
        ids = self.encode("\n" + text, add_special_tokens=False)
        if ids[: len(newline)] == newline:
            return ids[len(newline) :]
        return self.encode(text, add_special_tokens=False)

    def with_special_tokens(self, token_ids: list[int]) -> list[int]:
        """`token_ids` between the special tokens that the tokenizer adds to a text, bos as a rule."""
        plain, full = (self.encode("a", add_special_tokens=added) for added in (False, True))
        starts = range(len(full) - len(plain) + 1)
        start = next((i for i in starts if full[i : i + len(plain)] == plain), 0)
        return [*full[:start], *token_ids, *full[start + len(plain) :]]

    def spans(self, text: str, *, add_special_tokens: bool) -> list[TokenSpan]:
        """The tokens of `text` with the bytes that each covers (see `TokenSpan`)."""
        encoding = self._encode(text, add_special_tokens)
        byte_at = range(len(text) + 1) if text.isascii() else _byte_offsets(text)
        return [
            TokenSpan(token_id, text[start:stop], byte_at[start], byte_at[stop])
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of `token_ids`. Ids outside the vocabulary are skipped; broken characters become U+FFFD."""
        known = [token_id for token_id in token_ids if 0 <= token_id <= _MAX_ID]
        return guarded(
            "The tokenizer failed to decode",
            self._backend.decode,
            known,
            skip_special_tokens=skip_special_tokens,
        )

    def is_special(self, token_id: int) -> bool:
        """Whether `skip_special_tokens` removes this id."""
        return token_id in self._special_ids

    def is_known(self, token_id: int) -> bool:
        """Whether the vocabulary contains `token_id`; decoding skips other ids."""
        return self.token(token_id) is not None

    def token_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, in the vocabulary's spelling; None if there is none."""
        return guarded("The tokenizer failed to look up a token", self._backend.token_to_id, token)

    def token(self, token_id: int) -> str | None:
        """The vocabulary's spelling of `token_id`; None if the vocabulary does not contain it."""
        found: str | None = self._backend.id_to_token(token_id) if 0 <= token_id <= _MAX_ID else None
        return found

    def control_token_id(self, text: str) -> int | None:
        """The id of `text` if it spells one control token exactly, else None."""
        token_id = self.token_id(text)
        return token_id if token_id is not None and self.is_special(token_id) else None

    def marker_token_id(self, text: str) -> int | None:
        """The id of `text` if it spells one added token exactly, control token or not, else None."""
        return self.token_id(text) if text in self.added_tokens else None

    @cached_property
    def token_bytes(self) -> TokenBytes | None:
        """The bytes of each token, or None if this decoder is not a concatenation."""
        return guarded("The tokenizer's decoder is not usable", TokenBytes.of, self._backend)

    @cached_property
    def _newline_ids(self) -> list[int]:
        return self.encode("\n", add_special_tokens=False)

    def _encode(self, text: str, add_special_tokens: bool) -> Any:
        failure = "The tokenizer failed to encode the text"
        # `encode_batch` releases Python's lock, `encode` does not; for one short text they cost the same.
        encode = self._backend.encode_batch
        try:
            return guarded(failure, encode, [text], add_special_tokens=add_special_tokens)[0]
        except TokenizerError as exc:
            if _SURROGATE.search(text):
                raise TokenizerError("The text holds an unpaired surrogate, which is no character.") from exc
            raise


def _register(backend: tokenizers.Tokenizer, special: SpecialTokens) -> None:
    """Register as special the tokens that the configuration declares and `tokenizer.json` has as plain vocabulary.

    A declared token outside the vocabulary is skipped: transformers would give it an id past the end of the model's
    embedding.
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
    """Shrink the library's cache: a vocabulary that does not split at white space caches whole texts, up to 20 MB."""
    resize = getattr(backend.model, "_resize_cache", None)
    if resize is not None:
        resize(_CACHE_ENTRIES)


def _byte_offsets(text: str) -> list[int]:
    """UTF-8 offset of every character of `text` and of its end."""
    return list(accumulate((_utf8_length(character) for character in text), initial=0))


def _utf8_length(character: str) -> int:
    code = ord(character)
    return 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4
