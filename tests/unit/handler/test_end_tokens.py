"""What ends an answer is what every part of a checkpoint names, as far as the vocabulary has it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handler.model.end_tokens import eos_token_ids
from handler.model.gguf_model import _end_token_ids
from handler.seam.errors import BadModel

ADDED = [{"id": 8, "content": "<eos>"}, {"id": 9, "content": "<|im_end|>"}]


def checkpoint(directory: Path, **parts: Any) -> Path:
    """`parts` are the objects of the files; a vocabulary of ten tokens, two of them added."""
    files = {"config": {}, "tokenizer": {"added_tokens": ADDED, "model": {"vocab": {"</s>": 2}}}} | parts
    for name, value in files.items():
        (directory / f"{name}.json").write_text(json.dumps(value))
    return directory


def ends(directory: Path, default: int | None = None) -> set[int]:
    return set(eos_token_ids(directory, directory, SimpleNamespace(vocab_size=10, eos_token_id=default)))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"config": {"eos_token_id": 1}}, {1}),
        ({"config": {"eos_token_id": [1, 3]}}, {1, 3}),
        ({"config": {"text_config": {"eos_token_id": 4}}}, {4}),
        ({"config": {"eos_token_id": 1}, "generation_config": {"eos_token_id": [5]}}, {1, 5}),
        ({"config": {"eos_token_id": 8}, "tokenizer_config": {"eos_token": "<|im_end|>"}}, {8, 9}),
        ({"tokenizer_config": {"eos_token": {"content": "<|im_end|>", "special": True}}}, {9}),
        ({"special_tokens_map": {"eos_token": "<|im_end|>"}}, {9}),
        ({"tokenizer_config": {"eos_token": "</s>"}}, {2}),
        (
            {
                "tokenizer": {"model": {"vocab": [["a", 0.0], ["</s>", -1.5]]}},
                "tokenizer_config": {"eos_token": "</s>"},
            },
            {1},
        ),
        ({"tokenizer_config": {"eos_token": "<absent>"}}, set()),
        ({"tokenizer_config": {"eos_token": None}, "config": {"eos_token_id": None}}, set()),
        ({"generation_config": {"eos_token_id": 0}}, {0}),
    ],
)
def test_every_part_counts(tmp_path: Path, parts: dict[str, Any], expected: set[int]) -> None:
    assert ends(checkpoint(tmp_path, **parts)) == expected


def test_the_default_of_the_family_counts_only_if_no_part_names_one(tmp_path: Path) -> None:
    assert ends(checkpoint(tmp_path), default=2) == {2}
    assert ends(checkpoint(tmp_path, tokenizer_config={"eos_token": "<eos>"}), default=2) == {8}


def test_what_is_no_id_is_left_out_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = [9, 10, 99_999, -1, None, "9", True, 1.5, {}]
    with caplog.at_level(logging.WARNING):
        assert ends(checkpoint(tmp_path, generation_config={"eos_token_id": odd}, config={"eos_token_id": "8"})) == {9}
    (record,) = caplog.records
    assert record.getMessage() == (
        "eos_token_id: left out what is no id of the vocabulary of 10 tokens: 10, 99999, -1, None, '9', True, 1.5, {}"
    )


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    checkpoint(tmp_path, tokenizer_config={"eos_token": "<eos>"}, tokenizer={"added_tokens": 1})
    with pytest.raises(BadModel, match=r"tokenizer\.json is not a valid tokenizer file"):
        ends(tmp_path)
    checkpoint(tmp_path, generation_config=[])
    with pytest.raises(BadModel, match=r"generation_config\.json must hold a JSON object"):
        ends(tmp_path)


def test_a_gguf_file_names_the_end_of_text_turn_and_message() -> None:
    fields = {
        f"tokenizer.ggml.{name}_token_id": SimpleNamespace(contents=lambda i=i: i)
        for i, name in enumerate(("eos", "eot", "bos", "eom"))
    }
    assert _end_token_ids(SimpleNamespace(fields=fields), SimpleNamespace(eos_token_id=7)) == [0, 1, 3, 7]
    assert _end_token_ids(SimpleNamespace(fields={}), SimpleNamespace(eos_token_id=None)) == []
