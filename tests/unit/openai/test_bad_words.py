"""The tokens of a bad word for vocabularies that put a space before every text."""

from __future__ import annotations

from container.api.openai.bad_words import banned_sequences
from container.text.special_tokens import SpecialTokens
from container.text.tokenizer import Tokenizer
from tests.unit.text.text_models import sentencepiece_backend


def test_a_vocabulary_that_adds_a_space_spells_a_word_both_ways() -> None:
    """In the middle of a text there is no such space, so it must not be part of the first spelling."""
    backend = sentencepiece_backend()
    tokenizer = Tokenizer(backend, SpecialTokens({}, frozenset()))
    bare, spaced = banned_sequences(["hello"], tokenizer)
    assert "".join(backend.id_to_token(i) for i in bare) == "hello"
    assert "".join(backend.id_to_token(i) for i in spaced) == "▁hello"
