"""The torch-free tokenizer is transformers' tokenizer, and fails with a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel

from container.text.tokenizer import Tokenizer, TokenizerError, TokenSpan
from tests.unit.text.text_models import CHATML, FAMILIES, byte_level_backend, save_with_transformers, vocab_size

TEXTS = [
    "",
    " ",
    "Hello world",
    "  leading and trailing  ",
    "\n\n a\n\tb",
    "is  3.14\n 42 1234567890",
    "naïve café 日本語 😀👩‍👩‍👧 עברית \u202e \u0000 \ufffd \ufdd0",
    "<|im_start|>user\nhi<|im_end|></s><s><unk>",
    "a" * 500,
    "<|im_end|><|im_end|> <|im_end|>\n",
]


@pytest.mark.parametrize("name", ["llama-3.3", "qwen3", "phi-3.5", "zephyr"])
def test_encode_and_decode_equal_transformers(model, name):
    checked = model(name)
    for text in TEXTS:
        for special in (False, True):
            ids = checked.tokenizer.encode(text, add_special_tokens=special)
            assert ids == checked.reference.encode(text, add_special_tokens=special)
            for skip in (False, True):
                ours = checked.tokenizer.decode(ids, skip_special_tokens=skip)
                assert ours == checked.reference.decode(ids, skip_special_tokens=skip)


def test_the_post_processor_decides_about_bos(sentencepiece):
    for text in TEXTS:
        ids = sentencepiece.tokenizer.encode(text, add_special_tokens=True)
        assert ids == sentencepiece.reference.encode(text, add_special_tokens=True)
        assert ids[:1] == [1]
        assert ids[1:] == sentencepiece.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.bundled
def test_the_bundled_tokenizer_equals_transformers(bundled):
    for text in TEXTS:
        ids = bundled.tokenizer.encode(text, add_special_tokens=True)
        assert ids == bundled.reference.encode(text, add_special_tokens=True)
        assert bundled.tokenizer.decode(ids, skip_special_tokens=False) == text
    # Digits alone and white space before them in one token: the pre-tokenizer the GGUF file names.
    ids = bundled.tokenizer.encode("is  3.14", add_special_tokens=False)
    assert [span.text for span in bundled.tokenizer.spans("is  3.14", add_special_tokens=False)][1:3] == ["  ", "3"]
    assert len(ids) == 6
    assert vocab_size(bundled.tokenizer) == 49152


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_equal_transformers(model, name):
    checked = model(name)
    assert checked.tokenizer.special_tokens_map == checked.reference.special_tokens_map
    assert checked.tokenizer.special_tokens_map.get("bos_token") == checked.reference.bos_token
    assert checked.tokenizer.special_tokens_map.get("eos_token") == checked.reference.eos_token
    added = checked.reference.added_tokens_decoder
    assert checked.tokenizer.control_tokens == {token.content for token in added.values() if token.special}
    assert checked.tokenizer.added_tokens == {token.content for token in added.values()}
    assert vocab_size(checked.tokenizer) == len(checked.reference)
    for token_id, token in added.items():
        assert checked.tokenizer.is_special(token_id) == token.special
        assert checked.tokenizer.token_id(token.content) == token_id
    assert not checked.tokenizer.is_special(0)
    assert checked.tokenizer.token_id("no such token") is None


def test_older_configurations_name_their_tokens_elsewhere(tmp_path):
    """`special_tokens_map.json`, serialised AddedTokens, a model's own `image_token`, extra tokens by
    name.
    """
    from transformers import AutoTokenizer

    save_with_transformers(tmp_path, byte_level_backend(), CHATML)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("added_tokens_decoder", None)
    config["bos_token"] = {"__type": "AddedToken", "content": "<|im_start|>", "lstrip": False, "rstrip": False}
    config["pad_token"] = None
    config["image_token"] = "<|im_start|>"
    config["extra_special_tokens"] = {"stop_token": "<|im_end|>"}
    path.write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    reference = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert ours.special_tokens_map == reference.special_tokens_map
    assert ours.special_tokens_map["eos_token"] == reference.eos_token == "<|endoftext|>"
    assert "pad_token" not in ours.special_tokens_map


def test_a_token_only_the_configuration_calls_special_is_special(tmp_path):
    backend = byte_level_backend()
    word = next(token for token in backend.get_vocab() if len(token) > 2 and token.isalpha())
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": word, "pad_token": "[PAD]"}))
    ours = Tokenizer.load(tmp_path)
    assert ours.control_tokens == {word}
    assert ours.is_special(backend.token_to_id(word))
    # Not in the vocabulary: the model has no embedding for it, so it is text.
    assert ours.token_id("[PAD]") is None
    assert vocab_size(ours) == backend.get_vocab_size()


def test_truncation_and_padding_in_the_file_are_off(tmp_path):
    backend = byte_level_backend()
    backend.enable_truncation(max_length=3)
    backend.enable_padding(length=20)
    backend.save(str(tmp_path / "tokenizer.json"))
    text = "a long text that is not cut"
    ids = Tokenizer.load(tmp_path).encode(text, add_special_tokens=True)
    backend.no_truncation()
    backend.no_padding()
    assert ids == backend.encode(text).ids
    assert len(ids) > 3


def test_spans_are_byte_slices_of_the_text(model, sentencepiece):
    text = "aé😀 <|im_end|>b"
    tokenizer = model("smollm2").tokenizer
    spans = tokenizer.spans(text, add_special_tokens=True)
    assert [span.id for span in spans] == tokenizer.encode(text, add_special_tokens=True)
    assert all(text.encode()[span.start : span.stop].decode() == span.text for span in spans)
    assert spans[0] == TokenSpan(id=tokenizer.token_id("a"), text="a", start=0, stop=1)
    assert spans[-2] == TokenSpan(id=tokenizer.token_id("<|im_end|>"), text="<|im_end|>", start=8, stop=18)
    # é and 😀 are two and four bytes, and tokens that share a character all show it.
    assert {(span.text, span.start, span.stop) for span in spans} >= {("é", 1, 3), ("😀", 3, 7)}
    bos = sentencepiece.tokenizer.spans("an é", add_special_tokens=True)[0]
    assert bos == TokenSpan(id=1, text="", start=0, stop=0)


@settings(max_examples=200)
@given(text=st.text(max_size=30))
def test_spans_cover_any_text(byte_level, text):
    spans = byte_level.spans(text, add_special_tokens=False)
    covered = 0
    for span in spans:
        assert span.start <= covered <= span.stop
        covered = span.stop
    assert covered == len(text.encode())


@pytest.mark.parametrize("token_id", [-1, 10**6, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, -(2**70)])
def test_ids_outside_the_vocabulary_decode_to_nothing(model, token_id):
    tokenizer = model("smollm2").tokenizer
    inside = tokenizer.encode("ab", add_special_tokens=False)
    assert tokenizer.decode([token_id, *inside, token_id], skip_special_tokens=True) == "ab"
    assert not tokenizer.is_special(token_id)


def test_a_continuation_has_no_prefix_space(sentencepiece, model):
    for checked in (sentencepiece, model("smollm2")):
        for text in ("an the", "\n\nan", " an", "", "<", "é"):
            ids = checked.tokenizer.encode_continuation(text)
            context = checked.tokenizer.encode("a", add_special_tokens=False)
            joined = checked.tokenizer.decode(context + ids, skip_special_tokens=False)
            assert joined == "a" + text


def test_an_unpaired_surrogate_is_an_error(model):
    tokenizer = model("smollm2").tokenizer
    for call in (tokenizer.encode, tokenizer.spans):
        with pytest.raises(TokenizerError, match="unpaired surrogate"):
            call("a\ud800", add_special_tokens=False)


def written(directory: Path, **changes: object) -> Path:
    document = json.loads(byte_level_backend().to_str())
    (directory / "tokenizer.json").write_text(json.dumps({**document, **changes}))
    return directory


PANICS_ON_LOAD = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
PANICS_ON_ENCODE = {
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<q>", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
}
PANICS_ON_DECODE = {"decoder": {"type": "Strip", "content": "h", "start": 0, "stop": 50}}


@pytest.mark.parametrize("changes", [PANICS_ON_LOAD, PANICS_ON_ENCODE])
def test_a_file_that_makes_the_library_panic_is_refused(tmp_path, changes):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a .*: the tokenizer library panicked\.$"):
        Tokenizer.load(written(tmp_path, **changes))


def test_a_panic_while_decoding_is_an_error(tmp_path):
    tokenizer = Tokenizer.load(written(tmp_path, **PANICS_ON_DECODE))
    with pytest.raises(TokenizerError, match=r"failed to decode: the tokenizer library panicked\.$"):
        tokenizer.decode(tokenizer.encode("hh", add_special_tokens=False), skip_special_tokens=False)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": 1}', "\x00", '{"version": "1.0"}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'tokenizer.json'} is not a valid tokenizer file: ")
    assert "\n" not in message
    assert message.endswith(".")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"^There is no tokenizer\.json in .*\.$"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '"x"', "\x00", '{"added_tokens_decoder": [1]}', '{"added_tokens_decoder": {"1": {"special": true}}}'],
)
def test_an_unreadable_configuration_is_refused(tmp_path, content):
    written(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"configuration in .* is not readable"):
        Tokenizer.load(tmp_path)


def test_special_tokens_of_a_sloppy_file_survive(tmp_path):
    """A special token with white-space stripping, as Phi-3 declares, still encodes like transformers'."""
    from transformers import AutoTokenizer

    backend = byte_level_backend()
    backend.add_special_tokens([AddedToken("<|end|>", rstrip=True, normalized=False)])
    save_with_transformers(tmp_path, backend, CHATML)
    ours, reference = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("a<|end|>  b", "<|end|>\n\n<|end|>"):
        assert ours.encode(text, add_special_tokens=False) == reference.encode(text, add_special_tokens=False)


def test_the_web_side_imports_neither_torch_nor_transformers():
    code = (
        "import sys, container.text.chat_template, container.text.tokenizer, container.text.detokenizer,"
        " container.text.stop_strings; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def catastrophic(directory: Path, pattern: str) -> Path:
    """A tokenizer whose pre-tokenizer tries every way to split a text before it gives up."""
    found = json.loads(byte_level_backend().to_str())
    found["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    (directory / "tokenizer.json").write_text(json.dumps(found))
    return directory


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|aa)+$"])
def test_a_regex_that_backtracks_without_end_fails_with_a_sentence(tmp_path: Path, pattern: str):
    """The library panics when its regex engine has had enough, and not with an Exception."""
    tokenizer = Tokenizer.load(catastrophic(tmp_path, pattern))
    with pytest.raises(TokenizerError, match=r"^[^\n]*panicked\.$"):
        tokenizer.encode("a" * 2000 + "!", add_special_tokens=False)
    assert tokenizer.encode("b!", add_special_tokens=False)


def test_a_regex_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(TokenizerError, match="is not a valid tokenizer file"):
        Tokenizer.load(catastrophic(tmp_path, "(a"))


def test_what_the_library_remembers_is_bounded(tmp_path: Path) -> None:
    backend = byte_level_backend()
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.save(str(tmp_path / "tokenizer.json"))
    program = """
import sys, psutil
from pathlib import Path
from container.text.tokenizer import Tokenizer
tokenizer = Tokenizer.load(Path(sys.argv[1]))
def grown(numbers):
    before = psutil.Process().memory_info().rss
    for number in numbers:
        tokenizer.encode(f"{number} " + "abcdefgh " * 20, add_special_tokens=False)
    return psutil.Process().memory_info().rss - before
grown(range(2000))
print(grown(range(2000, 8000)))
"""
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    # 6,000 more texts of 180 tokens would be 40 MB.
    assert int(ran.stdout) < 4_000_000
