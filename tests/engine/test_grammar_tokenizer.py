"""Marks by id, and their spellings as data, whatever a tokenizer says about its added tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from llguidance import LLMatcher
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from handler.sampling.grammar_tokenizer import grammar_tokenizer

CONTROL, PLAIN, UNMARKED = "<|im_end|>", "<\uff5ctool_call\uff5c>", "[ARGS]"
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level() -> Tokenizer:
    """As Qwen's: added tokens lie behind the vocabulary."""
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(BYTES)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Gemma's: added tokens stand in the vocabulary, and so does the unknown token."""
    names = [CONTROL, "<unk>", PLAIN, UNMARKED, *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(33, 127))]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def unigram() -> Tokenizer:
    """As T5's: the vocabulary is a list, and some added tokens lie behind it."""
    names = [CONTROL, "<unk>", "\u2581", "\uff5c", *map(chr, range(33, 127))]
    tokenizer = Tokenizer(models.Unigram([(name, -1.0) for name in names], unk_id=1))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def with_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(CONTROL, special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in (PLAIN, UNMARKED)])
    return tokenizer


class Walker:
    """Walks through a grammar by tokens that its mask allows."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        tokenizer.save(str(path))
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self.end_id = tokenizer.token_to_id(CONTROL)
        self.plain_id = tokenizer.token_to_id(PLAIN)
        self.tokenizer = grammar_tokenizer(path, self.vocab_size, {self.end_id})
        self._matcher: LLMatcher | None = None

    def enters(self, grammar: str) -> None:
        self._matcher = LLMatcher(self.tokenizer, grammar)
        assert not self._matcher.is_error(), self._matcher.get_error()

    def allowed(self) -> list[int]:
        assert self._matcher is not None
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        return [int(i) for i in np.nonzero(bits[: self.vocab_size])[0]]

    def takes(self, token_id: int) -> bool:
        assert self._matcher is not None
        return token_id in self.allowed() and self._matcher.consume_token(token_id)

    def writes(self, text: str) -> bool:
        """Whether the grammar takes `text` in the only tokens it allows, none of which ends the answer."""
        written = b""
        while written != text.encode():
            found = self.allowed()
            following = [i for i in found if text.encode().startswith(written + self.tokenizer.decode_bytes([i]))]
            following = [i for i in following if not self.tokenizer.is_special_token(i)]
            if not following or not self.takes(following[0]):
                return False
            written += self.tokenizer.decode_bytes(following[:1])
        return True


@pytest.fixture(params=[byte_level, sentencepiece, unigram])
def walker(request: pytest.FixtureRequest, tmp_path: Path) -> Walker:
    make: Callable[[], Tokenizer] = request.param
    return Walker(tmp_path / "tokenizer.json", with_added_tokens(make()))


def test_a_mark_is_its_token(walker: Walker) -> None:
    for token_id in (walker.plain_id, walker.end_id):
        walker.enters(LLMatcher.grammar_from_lark(f'start: <[{token_id}]> "x"'))
        assert walker.takes(token_id)
        assert walker.writes("x")


@pytest.mark.parametrize("text", [CONTROL, PLAIN, UNMARKED, "<unk>"])
def test_a_spelling_is_data(walker: Walker, text: str) -> None:
    quoted = json.dumps(text, ensure_ascii=False)
    for schema in ({"const": text}, {"enum": [text]}, {"type": "string", "pattern": f"^{text.replace('|', '.')}$"}):
        if "pattern" not in schema or text != UNMARKED:
            walker.enters(LLMatcher.grammar_from_json_schema(json.dumps(schema)))
            assert walker.writes(quoted), schema
    named = {"type": "object", "properties": {text: {"const": 1}}, "required": [text], "additionalProperties": False}
    walker.enters(LLMatcher.grammar_from_json_schema(json.dumps(named), overrides={"whitespace_flexible": False}))
    assert walker.writes(f"{{{quoted}:1}}")
    walker.enters(LLMatcher.grammar_from_lark(f"start: {quoted}"))
    assert walker.writes(text)


def test_a_string_holds_plain_added_tokens_but_never_the_end(walker: Walker) -> None:
    walker.enters(LLMatcher.grammar_from_json_schema('{"type": "string"}'))
    assert walker.writes('"')
    assert walker.takes(walker.plain_id)
    assert walker.end_id not in walker.allowed()
    assert walker.writes('"')


def test_an_unflagged_end_stays_a_control_token(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(CONTROL, special=False, normalized=False)])
    tokenizer.add_tokens([AddedToken(PLAIN, special=False, normalized=False)])
    walker = Walker(tmp_path / "tokenizer.json", tokenizer)
    walker.enters(LLMatcher.grammar_from_json_schema('{"type": "string"}'))
    assert walker.writes('"')
    assert walker.end_id not in walker.allowed()
