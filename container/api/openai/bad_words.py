"""`bad_words`: strings an answer must not contain, as in vLLM, and the token sequences that stand for them."""

from __future__ import annotations

from functools import partial

from container.api.validation import check
from container.errors import InvalidRequest
from container.monitoring.request_record import timed
from container.text.offload import offload
from container.text.tokenizer import Tokenizer

MAX_WORDS = 128
MAX_CHARS = 256
_MAX_TOKENS = 64


def check_bad_words(words: list[str] | None) -> None:
    """Raise InvalidRequest naming field, limit and value, for what can be told without a tokenizer."""
    if not words:
        return
    check("bad_words", f"at most {MAX_WORDS} strings", len(words), len(words) <= MAX_WORDS)
    for i, word in enumerate(words):
        if not word:
            raise InvalidRequest('`bad_words` must be made of non-empty strings. Given: ""', param="bad_words")
        check(f"bad_words[{i}]", f"at most {MAX_CHARS} characters", len(word), len(word) <= MAX_CHARS)


def banned_sequences(words: list[str] | None, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """The tokens of each word as an answer goes on with it, with and without a space before it, each once.

    Raises InvalidRequest for a word of too many tokens or one that the tokenizer refuses.
    """
    if not words:
        return ()
    with timed("tokenise"):
        spelt = offload(sum(map(len, words)), partial(_spelt, words, tokenizer))
    for place, ids in spelt:
        check(f"bad_words[{place}]", f"at most {_MAX_TOKENS} tokens", len(ids), len(ids) <= _MAX_TOKENS)
    # A tokenizer may drop a character it does not know; what has no token cannot come.
    return tuple(dict.fromkeys(ids for _, ids in spelt if ids))


def _spelt(words: list[str], tokenizer: Tokenizer) -> list[tuple[int, tuple[int, ...]]]:
    """Place of the word and its tokens, twice for each word. One of spaces alone keeps them."""
    bare = [word.lstrip(" ") or word for word in words]
    return [
        (place, tuple(tokenizer.encode_continuation(prefix + word)))
        for place, word in enumerate(bare)
        for prefix in ("", " ")
    ]
