"""A checkpoint with tokenizer.model alone: ids equal those of the library sentencepiece, which is not installed.

The ids below were recorded with sentencepiece 0.2.3 on the same files.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from container.text.chat_template import ChatTemplate
from container.text.tokenizer import Tokenizer
from handler.model.end_tokens import _of_tokenizer
from handler.model.tokenizer_files import tokenizer_dir
from handler.seam.errors import BadModel
from tests.support import tiny_sentencepiece as tiny
from tests.support.tiny_sentencepiece import BPE, UNIGRAM

# Fields of TrainerSpec and NormalizerSpec.
_ALGORITHM, _SUFFIX, _BYTE_FALLBACK = 3, 24, 35
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_SPACES_REMOVED = 2, 3, 4
_BPE, _UNIGRAM = {_ALGORITHM: BPE, _BYTE_FALLBACK: 1}, {_ALGORITHM: UNIGRAM, _BYTE_FALLBACK: 1}
_PLAIN: dict[int, int | bytes] = {_EXTRA_SPACES_REMOVED: 0}
_RUNS = ("<start>", "\n\n", "▁▁▁")

_HELLO = [{"role": "user", "content": "hello"}]

TEXTS = ("hello world", " hello", "  hello  world ", "a\nb\n\n", "12 1212 3", "é 😀", ".", "", "   ", "\thello")
TEXTS += ("hello▁world", "wwworld ello")
RECORDED: dict[str, tuple[list[tiny.Piece], dict[int, int], dict[int, int | bytes], list[list[int]]]] = {
    "as Llama's": (
        tiny.pieces(), _BPE, _PLAIN,
        [[264, 271], [259, 279, 270], [259, 264, 259, 273, 274], [274, 275, 13, 276, 13, 13],
         [274, 272, 274, 272, 272, 274, 286], [274, 288, 274, 243, 162, 155, 131], [274, 287], [], [259, 259],
         [274, 12, 279, 270], [264, 271], [269, 283, 273, 274, 270]],
    ),
    "extra spaces removed": (
        tiny.pieces(), _BPE, {},
        [[264, 271], [264], [264, 271], [274, 275, 13, 276, 13, 13], [274, 272, 274, 272, 272, 274, 286],
         [274, 288, 274, 243, 162, 155, 131], [274, 287], [], [], [274, 12, 279, 270], [264, 271],
         [269, 283, 273, 274, 270]],
    ),
    "as Gemma's": (
        tiny.pieces(_RUNS), _BPE, _PLAIN | {_DUMMY_PREFIX: 0},
        [[282, 273, 274], [267], [262, 282, 273, 262, 276, 277], [278, 16, 279, 4], [275, 277, 275, 275, 277, 289],
         [291, 277, 246, 165, 158, 134], [290], [], [5], [15, 282, 273], [282, 273, 274], [286, 286, 276, 277, 273]],
    ),
    "no bytes": (
        tiny.pieces(byte_fallback=False), {_ALGORITHM: BPE}, _PLAIN,
        [[8, 15], [3, 23, 14], [3, 8, 3, 17, 18], [18, 19, 0, 20, 0], [18, 16, 18, 16, 16, 18, 30], [18, 32, 18, 0],
         [18, 31], [], [3, 3], [18, 0, 23, 14], [8, 15], [13, 27, 17, 18, 14]],
    ),
    "Unigram": (
        tiny.pieces(), _UNIGRAM, _PLAIN,
        [[264, 271], [274, 264], [259, 264, 259, 273, 274], [274, 275, 13, 276, 13, 13],
         [274, 272, 274, 272, 272, 274, 286], [274, 288, 274, 243, 162, 155, 131], [274, 287], [], [259, 259],
         [274, 12, 279, 261, 262], [264, 271], [269, 283, 273, 274, 261, 262]],
    ),
}  # fmt: skip
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory as a user has it, without weights."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return directory


def served(model: Path, config: dict[str, Any] | None = None) -> Tokenizer:
    if config is not None:
        (model / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(tokenizer_dir(model, model.parent / "cache", False))


@pytest.mark.parametrize("form", RECORDED)
def test_ids_are_those_of_sentencepiece(model: Path, form: str) -> None:
    vocabulary, trainer, normalizer, expected = RECORDED[form]
    tiny.write(model / "tokenizer.model", vocabulary, trainer, normalizer)
    tokenizer = served(model, LLAMA)
    assert [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS] == expected
    for text, ids in zip(TEXTS, expected, strict=True):
        if 0 not in ids and form != "extra spaces removed":
            assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("▁", " ")


def test_texts_are_normalised_as_the_file_says(model: Path) -> None:
    tiny.write(model / "tokenizer.model", tiny.pieces(), _BPE, {_CHARSMAP: tiny.charsmap("A", "B")} | _PLAIN)
    assert served(model).encode("A", add_special_tokens=False) == [274, 3 + ord("B")]


ADDED = {
    str(i): {"content": text, "special": True, "normalized": False}
    for i, text in {0: "<unk>", 1: "<s>", 2: "</s>", 290: "<|im_start|>", 292: "<|im_end|>"}.items()
}


@pytest.mark.parametrize(
    ("config", "older", "text", "expected"),
    [
        (LLAMA, {}, "hello", [1, 264]),
        # transformers 4's slow tokenizer, which legacy files were made for, puts a space after each token.
        (LLAMA, {}, "hello</s>hello", [1, 264, 2, 264]),
        (LLAMA | {"legacy": False}, {}, "hello</s>hello</s> hello", [1, 264, 2, 279, 270, 2, 264]),
        (LLAMA | {"add_prefix_space": False}, {}, "hello hello", [1, 279, 270, 264]),
        (LLAMA | {"add_bos_token": False, "add_eos_token": True}, {}, "hello", [264, 2]),
        (LLAMA | {"added_tokens_decoder": ADDED}, {}, "<|im_start|>hello<|im_end|>", [1, 290, 264, 292]),
        (LLAMA, {"<|im_start|>": 290, "<|im_end|>": 291}, "<|im_start|>hello<|im_end|>", [1, 290, 264, 291]),
        (LLAMA | {"bos_token": {"content": "</s>"}}, {}, "hello", [2, 264]),
        ({}, {}, "hello", [1, 264]),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {}, "hello", [264]),
    ],
)
@pytest.mark.parametrize("algorithm", [BPE, UNIGRAM])
def test_what_the_checkpoint_adds(
    model: Path, algorithm: int, config: dict[str, Any], older: dict[str, int], text: str, expected: list[int]
) -> None:
    tiny.write(model / "tokenizer.model", tiny.pieces(), {_ALGORITHM: algorithm, _BYTE_FALLBACK: 1}, _PLAIN)
    (model / "added_tokens.json").write_text(json.dumps(older))
    written = {BPE: [279, 270], UNIGRAM: [279, 261, 262]}[algorithm]
    wanted = " ".join(map(str, expected)).replace("279 270", " ".join(map(str, written)))
    assert served(model, config).encode(text, add_special_tokens=True) == [int(each) for each in wanted.split()]


def test_the_files_beside_it_count(model: Path) -> None:
    tiny.write(model / "tokenizer.model", tiny.pieces(), _BPE, _PLAIN)
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    (model / "chat_template.jinja").write_text("{{ bos_token }}plain")
    (model / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>"}))
    tokenizer = served(model)
    made = tokenizer_dir(model, model.parent / "cache", False)
    template = ChatTemplate.load(made, tokenizer)
    assert template is not None
    assert template.render(_HELLO).text == "<s>plain"
    assert template.render(_HELLO, tools=[{}]).text == "with tools"
    assert _of_tokenizer(made) == [2]
    assert not (model / "tokenizer.json").exists()


def test_it_is_made_once_for_each_version_of_the_files(model: Path) -> None:
    tiny.write(model / "tokenizer.model", tiny.pieces(), _BPE, _PLAIN)
    cache = model.parent / "cache"
    made = tokenizer_dir(model, cache, False)
    written = (made / "tokenizer.json").stat().st_ino
    assert tokenizer_dir(model, cache, False) == made
    assert (made / "tokenizer.json").stat().st_ino == written
    (model / "tokenizer_config.json").write_text(json.dumps(LLAMA))
    assert tokenizer_dir(model, cache, False) != made
    assert len(list((cache / "tokenizers").iterdir())) == 2


def _suffix(model: Path) -> None:
    tiny.write(model / "tokenizer.model", tiny.pieces(), _BPE | {_SUFFIX: 1}, _PLAIN)


def _words(model: Path) -> None:
    tiny.write(model / "tokenizer.model", tiny.pieces(), {_ALGORITHM: 3}, _PLAIN)


def _class_with_rules_of_its_own(model: Path) -> None:
    tiny.write(model / "tokenizer.model", tiny.pieces(), _BPE, _PLAIN)
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))


def _cut_short(model: Path) -> None:
    tiny.write(model / "tokenizer.model", tiny.pieces(), _BPE, _PLAIN)
    (model / "tokenizer.model").write_bytes((model / "tokenizer.model").read_bytes()[:700])


def _lfs_pointer(model: Path) -> None:
    (model / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 499723\n")


def _tiktoken(model: Path) -> None:
    (model / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")


def _tiktoken_by_name(model: Path) -> None:
    (model / "qwen.tiktoken").write_text("IQ== 0\nIg== 1\n")


def _vocabulary_without_class(model: Path) -> None:
    (model / "vocab.json").write_text('{"a": 0}')
    (model / "merges.txt").write_text("#version: 0.2\n")


def _other_name(model: Path) -> None:
    tiny.write(model / "spiece.model", tiny.pieces(), _BPE, _PLAIN)


def _no_bos(model: Path) -> None:
    tiny.write(model / "tokenizer.model", tiny.pieces()[2:], _BPE, _PLAIN)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_suffix, "of tokenizer.model: it keeps spaces in another way than at the beginning of words"),
        (_words, "of tokenizer.model: it splits texts by WORD, and only Unigram and BPE are known here"),
        (_class_with_rules_of_its_own, "the rules of its class 'XLMRobertaTokenizer' are not known here"),
        (_cut_short, "it is damaged, or no SentencePiece model"),
        (_lfs_pointer, "it is damaged, or no SentencePiece model"),
        (_tiktoken, "it is a vocabulary of tiktoken"),
        (_tiktoken_by_name, "of qwen.tiktoken: its format is not read here"),
        (_vocabulary_without_class, "of merges.txt, vocab.json: tokenizer_config.json names no class that reads"),
        (_other_name, "of spiece.model: its format is not read here"),
        (_no_bos, "it has no piece for unknown text"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(model: Path, write: Any, reason: str) -> None:
    write(model)
    with pytest.raises(BadModel) as caught:
        served(model)
    sentence = str(caught.value)
    assert f"{model} has no tokenizer.json, and none could be made of " in sentence
    assert reason in sentence
    assert "write tokenizer.json with AutoTokenizer.from_pretrained" in sentence
    assert "\n" not in sentence
    assert list((model.parent / "cache" / "tokenizers").iterdir()) == []


def test_a_directory_without_a_tokenizer(model: Path) -> None:
    with pytest.raises(BadModel, match=r"holds no tokenizer; copy tokenizer\.json from the model's repository into it"):
        served(model, LLAMA)


def test_a_tekken_file(model: Path) -> None:
    vocabulary = [(bytes([byte]), None) for byte in range(256)] + [(b"he", "he")]
    ranks = [
        {"rank": i, "token_bytes": base64.b64encode(token).decode(), "token_str": text}
        for i, (token, text) in enumerate(vocabulary)
    ]
    names = ("<unk>", "<s>", "</s>", "[INST]")
    special = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(names)]
    sizes = {"num_vocab_tokens": 257, "default_vocab_size": 261, "default_num_special_tokens": 4}
    found = {"config": {"pattern": r"\w+|\W", "version": "v7"} | sizes, "vocab": ranks, "special_tokens": special}
    (model / "tekken.json").write_text(json.dumps(found))
    tokenizer = served(model)
    assert tokenizer.encode("[INST]he", add_special_tokens=True) == [1, 3, 4 + 256]
    assert tokenizer.special_tokens_map == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def test_a_vocabulary_and_merges(model: Path) -> None:
    (model / "vocab.json").write_text(json.dumps({"h": 0, "e": 1, "he": 2, "<|endoftext|>": 3}))
    (model / "merges.txt").write_text("#version: 0.2\nh e\n")
    assert served(model, {"tokenizer_class": "GPT2Tokenizer"}).encode("he", add_special_tokens=True) == [2]
