"""Turns the tokenizer of a checkpoint that has tokenizer.model alone into tokenizer.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

from handler.model.json_file import read_json
from handler.model.sentencepiece.checkpoint_rules import CONFIG, read_rules, special_texts
from handler.model.sentencepiece.model_file import SentencePieceFile
from handler.model.sentencepiece.tokenizer import build_tokenizer

# A line of such a file is a token in base64 and its rank.
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def convert(directory: Path, target: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of `directory` into `target`.

    Raises BadModel for an unreadable file, ValueError for one that is no SentencePiece model or of a form not known.
    """
    raw = (directory / "tokenizer.model").read_bytes()
    if _TIKTOKEN.match(raw):
        raise ValueError("it is a vocabulary of tiktoken, which says neither how texts are split nor what is special")
    file = SentencePieceFile.read(raw)
    config = read_json(directory / CONFIG) if (directory / CONFIG).is_file() else {}
    build_tokenizer(file, read_rules(directory, config, file)).save(str(target / "tokenizer.json"))
    named = {key: text for key, text in special_texts(config, file).items() if text is not None}
    (target / CONFIG).write_text(json.dumps(named | config, ensure_ascii=False, indent=1), "utf-8")
