"""Which draft model is asked for, and what keeps a server from starting with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from container.settings import Settings
from handler import download
from handler.model.draft.settings import draft_config, locate_draft
from handler.model.draft.vocabulary import check_vocabulary
from handler.model.placement import Needs
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadConfiguration, BadModel
from model_memory.sharing import Weights
from tests.unit.handler.test_model_location import model


def tokenizer(directory: Path, tokens: list[str], added: tuple[str, ...] = (), unigram: bool = False) -> Path:
    directory.mkdir()
    vocabulary = [[token, -1.0] for token in tokens] if unigram else {token: i for i, token in enumerate(tokens)}
    extra = [{"id": len(tokens) + i, "content": text} for i, text in enumerate(added)]
    values = {"model": {"vocab": vocabulary}, "added_tokens": extra}
    (directory / "tokenizer.json").write_text(json.dumps(values))
    return directory


@pytest.mark.parametrize("unigram", [False, True])
def test_a_draft_model_of_another_vocabulary_is_refused_by_both_names(tmp_path: Path, unigram: bool) -> None:
    served = tokenizer(tmp_path / "a", ["x", "y", "z"], ("<end>",), unigram)
    same = tokenizer(tmp_path / "b", ["x", "y", "z"], ("<stop>", "<more>"), unigram)
    other = tokenizer(tmp_path / "c", ["x", "q", "z"], (), unigram)
    longer = tokenizer(tmp_path / "d", ["x", "y", "z", "zz"], (), unigram)
    check_vocabulary((served, "org/large"), (same, "org/small"))
    with pytest.raises(
        BadModel, match=r"'org/small' has another vocabulary than 'org/large': .*token 1 is 'q', not 'y'"
    ):
        check_vocabulary((served, "org/large"), (other, "org/small"))
    with pytest.raises(BadModel, match="4 tokens, not 3, and token 3 is 'zz', not '<end>'"):
        check_vocabulary((served, "org/large"), (longer, "org/small"))


@pytest.mark.parametrize("unigram", [False, True])
@pytest.mark.parametrize("in_vocabulary", [False, True])
def test_a_token_may_be_added_in_one_of_the_files_alone(tmp_path: Path, unigram: bool, in_vocabulary: bool) -> None:
    plain = tokenizer(tmp_path / "plain", ["x", "<end>"], (), unigram)
    marked = tokenizer(tmp_path / "marked", ["x", "<end>"] if in_vocabulary else ["x"], ("<end>",), unigram)
    file = marked / "tokenizer.json"
    values = json.loads(file.read_text())
    values["added_tokens"][0]["id"] = 1
    file.write_text(json.dumps(values))
    for pair in ((plain, marked), (marked, plain)):
        check_vocabulary((pair[0], "large"), (pair[1], "small"))
    other = tokenizer(tmp_path / "other", ["x", "y"], (), unigram)
    with pytest.raises(BadModel, match="token 1 is 'y', not '<end>'"):
        check_vocabulary((marked, "large"), (other, "small"))


def test_a_tokenizer_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    served = tokenizer(tmp_path / "a", ["x"])
    (served / "tokenizer.json").write_text("{}")
    with pytest.raises(BadModel, match="lists no vocabulary"):
        check_vocabulary((served, "large"), (served, "small"))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (Quantize.AUTO, Quantize.AUTO),
        (Quantize.INT4_BLOCKS, Quantize.INT4_BLOCKS),
        (Quantize.NONE, Quantize.NONE),
        # How the served checkpoint is stored says nothing about the other one.
        (Quantize.GPTQ, Quantize.AUTO),
        (Quantize.FP8, Quantize.AUTO),
    ],
)
def test_the_draft_model_has_the_settings_of_the_served_one(asked: Quantize, found: Quantize) -> None:
    config = EngineConfig(model="large", revision="abc", draft_model="small", quantize=asked, trust_remote_code=True)
    own = draft_config(config)
    assert (own.model, own.revision, own.draft_model, own.quantize) == ("small", None, "", found)
    assert own.trust_remote_code


def test_a_missing_draft_model_is_named_by_its_setting(tmp_path: Path) -> None:
    config = EngineConfig(model=str(model(tmp_path / "large")), num_draft_tokens=5, draft_model=str(tmp_path / "none"))
    with pytest.raises(BadModel, match=r"^SPECULATIVE_MODEL=.*none: SPECULATIVE_MODEL .* is neither a directory"):
        locate_draft(config, lambda *_: None)
    assert locate_draft(EngineConfig(model=config.model), lambda *_: None) is None


def test_code_of_a_draft_model_is_trusted_as_the_served_ones(tmp_path: Path) -> None:
    small = model(tmp_path / "small")
    (small / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}))
    with pytest.raises(BadModel, match=r"SPECULATIVE_MODEL=.*'auto_map', which runs code"):
        locate_draft(EngineConfig(num_draft_tokens=5, draft_model=str(small)), lambda *_: None)
    assert (
        locate_draft(EngineConfig(num_draft_tokens=5, draft_model=str(small), trust_remote_code=True), lambda *_: None)
        == small
    )
    (small / "handler.py").write_text("")
    with pytest.raises(BadModel, match=r"REFUSE_CUSTOM_CODE is set, .*small/handler\.py"):
        locate_draft(
            EngineConfig(num_draft_tokens=5, draft_model=str(small), trust_remote_code=True, refuse_custom_code=True),
            lambda *_: None,
        )


def test_a_draft_model_that_may_guess_nothing_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="SPECULATIVE_MODEL=small guesses nothing with SPECULATE=0"):
        locate_draft(EngineConfig(draft_model="small"), lambda *_: None)
    found = [
        Settings.from_environ(environ).num_draft_tokens
        for environ in (
            {},
            {"SPECULATE": "3"},
            {"SPECULATIVE_MODEL": "small"},
            {"SPECULATIVE_MODEL": "small", "SPECULATE": "0"},
        )
    ]
    assert found == [0, 3, 5, 0]


def test_both_models_are_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large, small = model(tmp_path / "large"), model(tmp_path / "small")
    assert download.main({"HF_MODEL_ID": str(large), "SPECULATIVE_MODEL": str(small)}) == 0
    assert capsys.readouterr().out == f"{large}\n{small}\n"
    assert download.main({"HF_MODEL_ID": str(large), "SPECULATIVE_MODEL": str(tmp_path / "none")}) == 3


def test_gpus_are_shared_out_for_both_models() -> None:
    served = Needs((Weights("none", 1000, 1000), Weights("int4", 300, 300)), key_bytes=50)
    both = served.beside(Needs((Weights("none", 100, 100), Weights("int4", 30, 30)), key_bytes=5))
    assert [(each.form, each.num_bytes, each.moved_bytes) for each in both.forms] == [
        ("none", 1100, 1000),
        ("int4", 400, 300),
    ]
    assert both.key_bytes == 55
