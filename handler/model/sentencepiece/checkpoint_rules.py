"""What the files beside a tokenizer.model say of it: the class, the added tokens, what stands around a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from handler.model.json_file import read_json
from handler.model.sentencepiece.model_file import SentencePieceFile
from handler.model.sentencepiece.tokenizer import Prefix, Rules

CONFIG = "tokenizer_config.json"
# Classes whose ids are those of the file, and whether they put bos before a text unless `add_bos_token` says otherwise.
# Others (T5's, XLM-RoBERTa's) move ids or normalise texts in Python.
_ADDS_BOS = {
    "LlamaTokenizer": True,
    "GemmaTokenizer": True,
    "BaichuanTokenizer": True,
    "InternLMTokenizer": True,
    "InternLM2Tokenizer": True,
    "InternLM3Tokenizer": True,
    "OrionTokenizer": True,
    "YiTokenizer": True,
    "PreTrainedTokenizer": False,
    "TokenizersBackend": False,
}
# The class for a family whose files name none.
_OF_FAMILY = {"llama": "LlamaTokenizer", "mistral": "LlamaTokenizer", "mixtral": "LlamaTokenizer"} | dict.fromkeys(
    ("gemma", "gemma2", "gemma3", "gemma3_text"), "GemmaTokenizer"
)


def tokenizer_class(directory: Path, config: dict[str, Any]) -> str:
    """The tokenizer's class, without `Fast`; "" if neither file names one and the family is none of those known."""
    model_config = read_json(directory / "config.json")
    named = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    return str(named or _OF_FAMILY.get(str(model_config.get("model_type")), "")).removesuffix("Fast")


def read_rules(directory: Path, config: dict[str, Any], file: SentencePieceFile) -> Rules:
    """`config` is tokenizer_config.json. Raises BadModel for an unreadable file, ValueError for an unknown class."""
    name = tokenizer_class(directory, config)
    if name not in _ADDS_BOS:
        raise ValueError(f"the rules of its class {name!r} are not known here" if name else "no file names its class")
    return Rules(
        prefix=_prefix(name, config),
        added=_added_tokens(directory, config),
        begin=special_texts(config, file)["bos_token"] if _flag(config, "add_bos_token", _ADDS_BOS[name]) else None,
        end=special_texts(config, file)["eos_token"] if _flag(config, "add_eos_token", False) else None,
    )


def special_texts(config: dict[str, Any], file: SentencePieceFile) -> dict[str, str | None]:
    """`bos_token` and `eos_token`: of the configuration if it has the key, even null, else of the file."""
    ids = {"bos_token": file.bos_id, "eos_token": file.eos_id}
    texts = {key: None if found is None else file.pieces[found].text for key, found in ids.items()}
    return {key: _text(config[key]) if key in config else text for key, text in texts.items()}


def _prefix(name: str, config: dict[str, Any]) -> Prefix:
    """transformers 4 treats a Llama tokenizer without `legacy` as legacy, and such files were made with it."""
    if not _flag(config, "add_prefix_space", True):
        return Prefix.NEVER
    return Prefix.FIRST if name == "LlamaTokenizer" and not _flag(config, "legacy", True) else Prefix.ALWAYS


def _flag(config: dict[str, Any], key: str, default: bool) -> bool:
    value = config.get(key)
    return default if value is None else bool(value)


def _added_tokens(directory: Path, config: dict[str, Any]) -> dict[int, AddedToken]:
    """By id: those of `added_tokens_decoder`, else those of added_tokens.json, which older versions wrote."""
    declared = config.get("added_tokens_decoder")
    if isinstance(declared, dict):
        return {int(token_id): _token(entry) for token_id, entry in declared.items()}
    older = read_json(directory / "added_tokens.json") if (directory / "added_tokens.json").is_file() else {}
    return {int(token_id): AddedToken(text, special=True, normalized=False) for text, token_id in older.items()}


def _token(entry: dict[str, Any]) -> AddedToken:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(str(entry["content"]), **{name: bool(entry.get(name)) for name in flags})


def _text(value: object) -> str | None:
    """The text of a token written as a string or as a serialised AddedToken."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None
