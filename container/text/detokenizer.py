"""Token ids to text, while they are generated.

`tokenizers.decoders.DecodeStream` is not enough: it has no flush, it holds text back while it ends in U+FFFD (even one
that the model wrote), and it raises "Invalid prefix" if a later token changes the decoding of earlier ones.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from container.text.token_bytes import TokenBytes
from container.text.tokenizer import Tokenizer

_ONE_PER_BYTE = "container.text.detokenizer.one_per_byte"
# A character has at most four bytes and a token at least one, so four tokens complete any character.
_MAX_PENDING = 4
# UTF-8 of a surrogate would start with this byte, followed by at least the second.
_SURROGATE_LEAD, _SURROGATE_FROM = 0xED, 0xA0


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(_ONE_PER_BYTE, _replace_each_byte)


class IncrementalDetokenizer:
    """The text of a growing sequence of token ids.

    The pieces that `push` returns, followed by `finish()`, are the text that the ids add to the decoding of
    `prompt_tail`, however the ids are split into pushes. With an empty tail that is `Tokenizer.decode` of all ids. A
    piece contains only whole characters: up to three bytes of an unfinished character are held back, and bytes that can
    no longer become a character turn into U+FFFD at once.

    One difference from `Tokenizer.decode`: if a run of byte-fallback tokens is not valid UTF-8, the library turns all
    its bytes into U+FFFD; here its valid characters survive, because a stream cannot take back what it has sent.

    `prompt_tail` is the last few ids of the prompt. It decides whether a leading space is kept, and it completes a
    character that the prompt left unfinished. It is never part of the output.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_tail: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        """Without `spaces_between_special_tokens`, a special token directly after another begins with no space."""
        table = tokenizer.token_bytes
        self._text = _Window(tokenizer) if table is None else _Concatenation(table)
        self._is_special = tokenizer.is_special
        self._skip_special_tokens = skip_special_tokens
        self._joins = not spaces_between_special_tokens
        self._after_special = False
        self.push(prompt_tail)
        self._after_special = False

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that `token_ids` complete, possibly empty."""
        if len(token_ids) == 1 and not self._joins:
            token_id = token_ids[0]
            return "" if self._skip_special_tokens and self._is_special(token_id) else self._text.push_one(token_id)
        if self._skip_special_tokens:
            token_ids = [token_id for token_id in token_ids if not self._is_special(token_id)]
        return "".join(map(self._joined, token_ids)) if self._joins else self._text.push(token_ids)

    def _joined(self, token_id: int) -> str:
        text = self._text.push([token_id])
        special = self._is_special(token_id)
        follows, self._after_special = special and self._after_special, special
        return text.removeprefix(" ") if follows else text

    def finish(self) -> str:
        """The text still held back; an unfinished character becomes U+FFFD. Call once, after the last token."""
        return self._text.finish()


class _Concatenation:
    """Decoding with a table: each token adds its bytes."""

    def __init__(self, table: TokenBytes) -> None:
        self._table = table
        self._started = False
        self._is_whole = True
        self._utf8 = codecs.getincrementaldecoder("utf-8")(_ONE_PER_BYTE if table.byte_fallback else "replace")

    def push_one(self, token_id: int) -> str:
        """As `push`, by a table for a token of whole characters after whole characters: nearly every one."""
        text = self._table.text(token_id) if self._started and self._is_whole else None
        return self.push([token_id]) if text is None else text

    def push(self, token_ids: Sequence[int]) -> str:
        if self._started:
            return self._decode(b"".join(map(self._table.inner, token_ids)))
        known = [token_id for token_id in token_ids if self._table.is_known(token_id)]
        if not known:
            return ""
        self._started = True
        return self._decode(self._table.first(known[0]) + b"".join(map(self._table.inner, known[1:])))

    def _decode(self, raw: bytes) -> str:
        """Decode, but do not wait for the third byte of a surrogate as Python does: it is never a character."""
        text = self._utf8.decode(raw)
        held = self._utf8.getstate()[0]
        if len(held) == 2 and held[0] == _SURROGATE_LEAD and held[1] >= _SURROGATE_FROM:
            text += self._utf8.decode(b"", final=True)
            held = b""
        self._is_whole = not held
        return text

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _Window:
    """Decoding with any other decoder: the text that the newest tokens add to the few before them.

    `_shown` tokens are context whose text was returned; `_pending` tokens wait for the rest of a character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._shown: list[int] = []
        self._pending: list[int] = []

    def push_one(self, token_id: int) -> str:
        return self._push(token_id) if self._tokenizer.is_known(token_id) else ""

    def push(self, token_ids: Sequence[int]) -> str:
        return "".join(map(self.push_one, token_ids))

    def finish(self) -> str:
        text = self._added()
        self._pending = []
        return text

    def _push(self, token_id: int) -> str:
        self._pending.append(token_id)
        text = self._added()
        unfinished = not text or text.endswith("\ufffd")
        if unfinished and len(self._pending) < _MAX_PENDING:
            return ""
        # Tokens without text are useless as context; keep the last ones that had text.
        self._shown = self._pending if text else (self._shown + self._pending)[-_MAX_PENDING:]
        self._pending = []
        return text

    def _added(self) -> str:
        before = self._tokenizer.decode(self._shown, skip_special_tokens=False)
        after = self._tokenizer.decode(self._shown + self._pending, skip_special_tokens=False)
        return after[len(before) :]
