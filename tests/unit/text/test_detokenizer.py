"""Streamed text is the decoded text: every piece is whole characters, nothing is lost, nothing is late."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from container.generation.visible_text import VisibleText
from container.text.detokenizer import IncrementalDetokenizer
from container.text.stop_strings import StopStrings
from container.text.tokenizer import Tokenizer, TokenizerError
from tests.unit.text.text_models import CORPUS, byte_level_backend, sentencepiece_backend, vocab_size

BYTE_TOKEN = re.compile(r"<0x(..)>")


def metaspace_backend() -> tokenizers.Tokenizer:
    """A Unigram with Metaspace, as converted from T5-like sentencepiece models."""
    pieces = ["<unk>", "▁", *"abcdehilnorstuw", "▁the", "an", "▁a", "▁▁", "▁hello"]
    backend = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["</s>"])
    return backend


def word_piece_backend() -> tokenizers.Tokenizer:
    vocab = {token: index for index, token in enumerate(["[UNK]", "a", "##b", "##c", "dog", "'", "s", ".", "é"])}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["[SEP]"])
    return backend


def suffix_backend() -> tokenizers.Tokenizer:
    """A BPE that marks the ends of words, whose decoder treats the last token apart (openai-gpt)."""
    backend = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=200, end_of_word_suffix="</w>", special_tokens=["<unk>"], show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def no_decoder_backend() -> tokenizers.Tokenizer:
    backend = metaspace_backend()
    backend.decoder = None
    return backend


BACKENDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": byte_level_backend,
    "sentencepiece": sentencepiece_backend,
    "metaspace": metaspace_backend,
    "word piece": word_piece_backend,
    "suffix": suffix_backend,
    "no decoder": no_decoder_backend,
}


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    def open_one(build: Callable[[], tokenizers.Tokenizer]) -> Tokenizer:
        directory = tmp_path_factory.mktemp("tokenizer")
        backend = build()
        if build is byte_level_backend:
            backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        backend.save(str(directory / "tokenizer.json"))
        return Tokenizer.load(directory)

    return {name: open_one(build) for name, build in BACKENDS.items()}


def streamed(tokenizer: Tokenizer, ids: list[int], sizes: list[int], **options: Any) -> str:
    """The text of `ids` in pushes of the given sizes, the last one taking the rest."""
    detokenizer = IncrementalDetokenizer(tokenizer, **options)
    rest = iter(ids)
    pieces = [detokenizer.push(list(itertools.islice(rest, size))) for size in sizes]
    return "".join([*pieces, detokenizer.push(list(rest)), detokenizer.finish()])


def expected_text(tokenizer: Tokenizer, ids: list[int], *, skip: bool) -> str:
    """`Tokenizer.decode`, but for byte-fallback runs that are not UTF-8: their valid characters survive."""
    kept = [token_id for token_id in ids if not (skip and tokenizer.is_special(token_id))]
    if tokenizer.token_id("<0x41>") is None:
        return tokenizer.decode(ids, skip_special_tokens=skip)
    by_id = {tokenizer.token_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
    kept = [token_id for token_id in kept if 0 <= token_id < vocab_size(tokenizer)]
    pieces: list[str] = []
    for is_byte, run in itertools.groupby(kept, key=by_id.__contains__):
        token_ids = list(run)
        if is_byte:
            raw = bytes(by_id[token_id] for token_id in token_ids).decode("utf-8", "surrogateescape")
            piece = re.sub("[\udc80-\udcff]", "\ufffd", raw)
            pieces.append(piece if pieces else piece.removeprefix(" "))
        else:
            context = tokenizer.encode("a", add_special_tokens=False)[-1:] if pieces else []
            decoded = tokenizer.decode([*context, *token_ids], skip_special_tokens=False)
            pieces.append(decoded[len(context) :])
    return "".join(pieces)


ids_lists = st.lists(st.integers(-2, 700), max_size=40)


@settings(max_examples=100)
@given(ids=ids_lists, sizes=st.lists(st.integers(0, 5), max_size=10), skip=st.booleans())
@pytest.mark.parametrize("name", sorted(set(BACKENDS) - {"sentencepiece"}))
def test_the_pieces_are_the_decoded_text(opened, name, ids, sizes, skip):
    tokenizer = opened[name]
    text = streamed(tokenizer, ids, sizes, skip_special_tokens=skip)
    assert text == tokenizer.decode(ids, skip_special_tokens=skip)


@settings(max_examples=200)
@given(ids=ids_lists, sizes=st.lists(st.integers(0, 5), max_size=10), skip=st.booleans())
@example(ids=[3 + 0xE2, 3 + 0x82, 3 + 0xAC, 3 + 0x80], sizes=[], skip=True)
def test_byte_fallback_keeps_the_valid_characters(opened, ids, sizes, skip):
    tokenizer = opened["sentencepiece"]
    text = streamed(tokenizer, ids, sizes, skip_special_tokens=skip)
    assert text == expected_text(tokenizer, ids, skip=skip)


def split_bytes(tokenizer: Tokenizer, text: str) -> list[int]:
    """`text` as byte tokens, one a byte, with letters of the vocabulary between."""
    ids: list[int] = []
    for character in text:
        known = tokenizer.token_id(character)
        ids += [known] if known is not None else [3 + byte for byte in character.encode()]
    return ids


@settings(max_examples=200)
@given(text=st.text(max_size=20), data=st.data())
def test_byte_fallback_of_any_text_equals_decode(opened, text, data):
    tokenizer = opened["sentencepiece"]
    ids = [tokenizer.token_id("a"), *split_bytes(tokenizer, text)]
    sizes = data.draw(st.lists(st.integers(0, 4), max_size=len(ids)))
    assert streamed(tokenizer, ids, sizes) == tokenizer.decode(ids, skip_special_tokens=True) == "a" + text


@settings(max_examples=200)
@given(ids=ids_lists)
@example(ids=[169, 94])  # the first two bytes of a surrogate
@example(ids=[169, 94, 94])
def test_no_character_is_broken_and_none_is_late(opened, ids):
    """After each token all of the decoded text is out, but for one unfinished character at its end."""
    tokenizer = opened["byte level"]
    detokenizer = IncrementalDetokenizer(tokenizer)
    out = ""
    for index, token_id in enumerate(ids):
        out += detokenizer.push([token_id])
        text = tokenizer.decode(ids[: index + 1], skip_special_tokens=True)
        assert out in {text, text.removesuffix("\ufffd")}
    assert out + detokenizer.finish() == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["byte level", "sentencepiece"])
@pytest.mark.parametrize("text", ["a😀b", "👩‍👩‍👧", "日本語", "नमस्ते", "עברית", "🇫🇷", "e\u0301", "\U0010ffff"])
def test_pieces_are_whole_characters(opened, name, text):
    tokenizer = opened[name]
    ids = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = IncrementalDetokenizer(tokenizer)
    pieces = [detokenizer.push([token_id]) for token_id in ids]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert detokenizer.finish() == ""


@pytest.mark.parametrize("name", ["byte level", "sentencepiece"])
def test_a_replacement_character_of_the_model_is_shown_at_once(opened, name):
    tokenizer = opened[name]
    ids = tokenizer.encode("a\ufffd", add_special_tokens=False)
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert detokenizer.push(ids) == "a\ufffd"
    assert detokenizer.finish() == ""


@pytest.mark.parametrize("name", ["byte level", "sentencepiece"])
@pytest.mark.parametrize("run", [b"\x80" * 50, b"\xe2" * 50, b"\xf0\x9f\x98" * 20, b"\xff\xc3\x28" * 9])
def test_broken_bytes_do_not_hold_text_back(opened, name, run):
    tokenizer = opened[name]
    ids = [byte_level_id(tokenizer, byte) if name == "byte level" else 3 + byte for byte in run]
    detokenizer = IncrementalDetokenizer(tokenizer)
    out = ""
    for index, token_id in enumerate(ids):
        out += detokenizer.push([token_id])
        text = expected_text(tokenizer, ids[: index + 1], skip=True)
        assert text.startswith(out)
        assert len(text) - len(out) <= 3
    assert detokenizer.push([tokenizer.token_id("a")]).endswith("a")


def byte_level_id(tokenizer: Tokenizer, byte: int) -> int:
    """The id of the token that stands for one byte."""
    found = [index for index in range(300) if tokenizer.token_bytes.inner(index) == bytes([byte])]
    assert len(found) == 1
    return found[0]


def test_every_token_s_bytes_equal_the_library_s(opened):
    """The table says of all pairs of tokens what the library decodes."""
    for name in ("byte level", "metaspace", "word piece"):
        tokenizer = opened[name]
        size = vocab_size(tokenizer)
        for first, second in zip(range(size), reversed(range(size)), strict=True):
            table = tokenizer.token_bytes
            ours = (table.first(first) + table.inner(second)).decode("utf-8", "replace")
            assert ours == tokenizer.decode([first, second], skip_special_tokens=False)


@pytest.mark.parametrize("name", ["sentencepiece", "metaspace"])
def test_the_prompt_decides_about_the_leading_space(opened, name):
    tokenizer = opened[name]
    the = tokenizer.token_id("▁the")
    assert IncrementalDetokenizer(tokenizer).push([the]) == "the"
    prompt = [tokenizer.token_id("▁a")]
    assert IncrementalDetokenizer(tokenizer, prompt).push([the]) == " the"
    # A prompt of nothing but skipped tokens is no text to lean on.
    special = [tokenizer.token_id("</s>")]
    assert IncrementalDetokenizer(tokenizer, special).push([the]) == "the"
    # Decoders count a shown special token as the first token.
    shown = IncrementalDetokenizer(tokenizer, special, skip_special_tokens=False)
    assert shown.push([the]) == " the"


@settings(max_examples=200)
@given(prompt=st.lists(st.integers(0, 600), min_size=1, max_size=6), ids=ids_lists)
def test_after_a_prompt_the_text_is_what_the_ids_add(opened, prompt, ids):
    tokenizer = opened["byte level"]
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    after = tokenizer.decode([*prompt, *ids], skip_special_tokens=True)
    text = streamed(tokenizer, ids, [1, 2, 3], prompt_tail=prompt)
    # A character the prompt left unfinished belongs to the answer.
    assert after == before + text or after == before.removesuffix("\ufffd") + text


def test_special_tokens_in_the_middle(opened):
    tokenizer = opened["byte level"]
    ids = tokenizer.encode("a<|im_end|>é", add_special_tokens=False)
    assert streamed(tokenizer, ids, [1] * 9) == "aé"
    assert streamed(tokenizer, ids, [1] * 9, skip_special_tokens=False) == "a<|im_end|>é"
    # A skipped token between the bytes of a character does not break it.
    first, second = ids[-2:]
    end = tokenizer.token_id("<|im_end|>")
    assert streamed(tokenizer, [first, end, second], [1, 1, 1]) == "é"


@pytest.mark.parametrize("name", ["no decoder", "word piece"])
def test_spaces_between_special_tokens(opened, name):
    """vLLM's rule: a special token directly after another begins with no space; other spaces stay."""
    tokenizer = opened[name]
    (special,) = sorted(tokenizer.control_tokens)
    end, word = tokenizer.token_id(special), tokenizer.token_id("a" if name == "word piece" else "an")
    ids, text = [word, end, end, word, end, end], tokenizer.decode([word], skip_special_tokens=False)
    for sizes in ([1] * 6, [2, 4], [6]):
        spaced = streamed(tokenizer, ids, sizes, skip_special_tokens=False)
        joined = streamed(tokenizer, ids, sizes, skip_special_tokens=False, spaces_between_special_tokens=False)
        assert spaced == f"{text} {special} {special} {text} {special} {special}"
        assert joined == f"{text} {special}{special} {text} {special}{special}"
    for join, expected in ((False, spaced), (True, joined)):
        # Where the readers look for marks, as they do in a chat with tools.
        visible = VisibleText(
            tokenizer, [], StopStrings((), keep=False), {-1: "x"}, show_special=True, join_special=join
        )
        assert "".join(map(visible.push, ids)) + visible.finish() == expected
    detokenizer = IncrementalDetokenizer(
        tokenizer, [word, end], skip_special_tokens=False, spaces_between_special_tokens=False
    )
    assert detokenizer.push([end]) == f" {special}", "the prompt's last token is no part of the answer"


def test_a_word_separator_that_depends_on_the_next_token(opened):
    tokenizer = opened["suffix"]
    ids = tokenizer.encode("the quick brown fox", add_special_tokens=False)
    assert tokenizer.token_bytes is None
    assert streamed(tokenizer, ids, [1] * len(ids)) == "the quick brown fox"


def test_a_decoder_that_is_no_concatenation(tmp_path: Path):
    """A replacement after the fusing can reach over tokens, so a window of tokens is decoded again and again."""
    backend = sentencepiece_backend()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.token_bytes is None
    ids = tokenizer.encode("an 😀 é\ufffd the", add_special_tokens=False)
    detokenizer = IncrementalDetokenizer(tokenizer)
    pieces = [detokenizer.push([token_id]) for token_id in ids]
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True) == " an 😀 é\ufffd the"
    # Broken bytes are let go after four tokens, the most that one character can take.
    out = "".join(detokenizer.push([3 + 0xE2]) for _ in range(10))
    assert len(out) == 8
    assert out + detokenizer.finish() == "\ufffd" * 10


@pytest.mark.bundled
def test_the_bundled_tokenizer_streams_any_text(bundled):
    text = "Hello, wörld! 😀👩‍👩‍👧 日本語 नमस्ते עברית\n\n\tis  3.14 <|im_end|>\ufffd" * 3
    ids = bundled.tokenizer.encode(text, add_special_tokens=False)
    for size in (1, 2, 7):
        sizes = [size] * len(ids)
        assert streamed(bundled.tokenizer, ids, sizes, skip_special_tokens=False) == text
    every = list(range(vocab_size(bundled.tokenizer)))
    decoded = bundled.tokenizer.decode(every, skip_special_tokens=False)
    assert streamed(bundled.tokenizer, every, [1] * 5000, skip_special_tokens=False) == decoded


def test_a_decoder_that_panics_is_an_error(tmp_path: Path):
    backend = sentencepiece_backend()
    backend.decoder = decoders.Strip("h", 0, 50)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match="panicked"):
        streamed(tokenizer, tokenizer.encode("hh", add_special_tokens=False), [1, 1])
