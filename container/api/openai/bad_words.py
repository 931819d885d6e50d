"""`bad_words`: strings an answer must not contain, as in vLLM, and their token sequences."""

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
    """Raise InvalidRequest naming field, limit and value; these checks need no tokenizer."""
    if not words:
        return
    check("bad_words", f"at most {MAX_WORDS} strings", len(words), len(words) <= MAX_WORDS)
    for i, word in enumerate(words):
        if not word:
            raise InvalidRequest('`bad_words` must be made of non-empty strings. Given: ""', param="bad_words")
        check(f"bad_words[{i}]", f"at most {MAX_CHARS} characters", len(word), len(word) <= MAX_CHARS)


def banned_sequences(words: list[str] | None, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """The tokens of each word as the continuation of a text, with and without a space before it, without duplicates.

    Raises InvalidRequest for a word with too many tokens or one that the tokenizer refuses.
    """
    if not words:
        return ()
    with timed("tokenise"):
        spelt = offload(sum(map(len, words)), partial(_spelt, words, tokenizer))
    for index, ids in spelt:
        check(f"bad_words[{index}]", f"at most {_MAX_TOKENS} tokens", len(ids), len(ids) <= _MAX_TOKENS)
    # A tokenizer may drop unknown characters; a word without tokens cannot be generated.
    return tuple(dict.fromkeys(ids for _, ids in spelt if ids))


def _spelt(words: list[str], tokenizer: Tokenizer) -> list[tuple[int, tuple[int, ...]]]:
    """Index and tokens of each word, twice per word. A word of spaces alone keeps them."""
    bare = [word.lstrip(" ") or word for word in words]
    return [
        (index, tuple(tokenizer.encode_continuation(prefix + word)))
        for index, word in enumerate(bare)
        for prefix in ("", " ")
    ]
